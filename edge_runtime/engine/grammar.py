"""What an answer has to look like: JSON of a schema, a regular expression, one of some choices, a Lark grammar.

llguidance turns these into the set of tokens that may come next. It is imported when the first request asks for such an
answer, and nowhere else. Knows nothing of chats, logits' meaning or time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime import actions
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.engine.schema_checks import checked_schema
from edge_runtime.engine.tool_grammar import SPELLING, tools_grammar
from edge_runtime.errors import BadParameter, InternalError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_SLICES = tuple(f'[^<"\\\\\\x00-\\x1F\\x7F]{{1,{most}}}' for most in (10, 30))
"""Sets of tokens whose place in a mask is worked out beforehand, beside llguidance's own: text in tags, as agents say
it. A tenth of the time of a mask there."""
_MAX_STATES = 20_000
_MAX_SYMBOLS = 100_000
"""Less than llguidance's own limits, which let one grammar take half a gigabyte. Those of the work for one token are
twenty milliseconds already."""


class Grammars:
    """Makes grammars for one tokenizer. For any thread."""

    def __init__(self, read: Callable[[], str], end_ids: Collection[int], added_tokens: Collection[str] = ()) -> None:
        """`read` gives the text of a `tokenizer.json` without gaps; each of `end_ids` may end an answer.

        `added_tokens`: what is matched as a whole string.
        """
        self._read = read
        self._added_tokens = added_tokens
        self._end_ids = sorted(end_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def of(self, options: GenerationOptions, call_ids: tuple[int, int] | None = None) -> Grammar | None:
        """That of an answer with such options; None where it may be anything. Raises `BadParameter`.

        `call_ids`: the tokens around tool calls; without them there are none.
        """
        source = grammar_source(options, self._added_tokens, call_ids)
        return self.compile(source) if source else None

    def compile(self, source: str) -> Grammar:
        """`source` in llguidance's own form. Raises `BadParameter` for one that says nothing sensible."""
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 - most requests have no grammar

        tokens = self._known_tokens()
        limits = LLParserLimits(max_lexer_states=_MAX_STATES, max_grammar_size=_MAX_SYMBOLS, verbose_errors=False)
        matcher = LLMatcher(tokens, source, log_level=0, limits=limits)
        if matcher.is_error():
            raise BadParameter(f"the grammar of the answer cannot be used: {_reason(matcher)}")
        grammar = Grammar(matcher, tokens)
        grammar.mask(np.zeros(tokens.vocab_size, dtype=np.float32))  # says so if nothing can be said
        return grammar

    def _known_tokens(self) -> LLTokenizer:
        from llguidance import LLTokenizer  # noqa: PLC0415 - as above

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    self._read(), eos_token=self._end_ids, slices=[*_SLICES, *LLTokenizer.general_slices()]
                )
            return self._tokenizer


class Grammar:
    """Follows one answer. Owned by one thread at a time."""

    __slots__ = ("_bits", "_matcher", "_num_tokens", "_tokens")

    def __init__(self, matcher: LLMatcher, tokens: LLTokenizer) -> None:
        self._matcher = matcher
        self._tokens = tokens
        self._num_tokens = num_tokens = tokens.vocab_size  # that the tokenizer has; logits may be of fewer or more
        self._bits = np.zeros((num_tokens + 31) // 32, dtype=np.int32)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """The next tokens that come in any case, as the tokenizer would spell them; none where there is a choice."""
        spelled = self._matcher.compute_ff_tokens()
        if spelled and not (fitting := self._matcher.validate_tokens(spelled)):
            # It begins with text that spells a control token, and llguidance takes it for one.
            text = self._matcher.compute_ff_bytes().decode(errors="ignore")
            spelled = self._tokens.greedy_tokenize(text)
            fitting = self._matcher.validate_tokens(spelled)
        return list(spelled[:fitting]) if spelled else []

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set what may not come next to -inf, in place. Raises `BadParameter` where that takes too much work."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._num_tokens, bitorder="little")
        known = min(len(logits), self._num_tokens)
        np.copyto(logits[:known], -np.inf, where=allowed[:known] == 0)
        logits[known:] = -np.inf

    def take(self, token_id: int) -> None:
        """The next token is this one, which may come. Raises as `mask`."""
        if not self._matcher.consume_token(token_id):
            self._check()

    def fits(self, token_ids: NDArray[np.int64]) -> int:
        """How many of `token_ids` may come next, one after the other."""
        unknown = np.flatnonzero(token_ids >= self._num_tokens)  # which the matcher would break over
        known = token_ids[: unknown[0]] if len(unknown) else token_ids
        return int(self._matcher.validate_tokens(known.tolist())) if len(known) else 0

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        reason = _reason(self._matcher)
        if "NoExtension" in reason:
            raise BadParameter("the grammar of the answer allows nothing at this place, not even an end; mend it")
        if "doesn't satisfy" in reason:
            raise InternalError(f"a token was drawn that the grammar of the answer does not take: {reason}")
        raise BadParameter(f"the grammar of the answer takes too much work at this place; make it simpler: {reason}")


def grammar_source(
    options: GenerationOptions, added_tokens: Collection[str], call_ids: tuple[int, int] | None = None
) -> str:
    """The grammar that `options` ask for, in llguidance's own form; empty: none. Raises `BadParameter`."""
    in_words = options.schema or options.regex or options.choice or options.lark or options.actions
    if not in_words and (call_ids is None or not options.offered_tools):
        return ""
    from llguidance import LLMatcher  # noqa: PLC0415 - most requests have no grammar

    try:
        if call_ids is not None and options.offered_tools:
            schema = options.schema and checked_schema(options.schema)
            for tool in options.offered_tools:
                checked_schema(tool.parameters, f"the schema of the tool {tool.name!r}")
            return str(LLMatcher.grammar_from_lark(_tools(options, call_ids, schema)))
        if options.schema:
            return str(LLMatcher.grammar_from_json_schema(checked_schema(options.schema), overrides=SPELLING))
        if options.regex:
            return str(LLMatcher.grammar_from_regex(options.regex))
        if options.choice:
            return str(LLMatcher.grammar_from_lark("start: " + " | ".join(map(_literal, options.choice))))
        lark = _checked_lark(options.lark) or actions.get(options.actions).grammar(added_tokens)
        return str(LLMatcher.grammar_from_lark(lark))
    except ValueError as error:
        raise BadParameter(f"the grammar of the answer cannot be used: {error}") from error


def _tools(options: GenerationOptions, call_ids: tuple[int, int], schema: str) -> str:
    return tools_grammar(
        options.offered_tools,
        options.tool_choice,
        parallel=options.parallel_tool_calls,
        call_ids=call_ids,
        schema=schema,
    )


def _literal(text: str) -> str:
    """A string of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _checked_lark(text: str) -> str:
    """JSON inside a Lark grammar is not looked into: what `checked_schema` refuses there is refused by its name."""
    if "%json" in text and ("multipleOf" in text or "\\u" in text):
        raise BadParameter("lark has %json with multipleOf, or with escapes (\\u...); give such a schema as schema=")
    return text


def _reason(matcher: LLMatcher) -> str:
    """What llguidance says of it, in one line, without advice about options of its own."""
    said = " ".join(matcher.get_error().split()).replace("<non-verbose/>", "")
    return said.partition(" Enable 'coerce_one_of'")[0].strip()[:300]
