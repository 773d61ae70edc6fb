"""What one request asks for. Knows nothing of how it is served.

`GenerationOptions` is the one list of options: the wire's `generate`, the clients, `edge-runtime ask` and the engine
all take theirs from it, so that a new one is written here, and where it takes effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import msgspec
from msgspec import Meta

from edge_runtime.engine.option_checks import EFFORTS, kinds, schema_text, settle, type_of
from edge_runtime.errors import BadParameter, BadPrompt
from edge_runtime.model.tools import ToolDefinition, check_tools, choice_of

if TYPE_CHECKING:
    from edge_runtime.model.conversation import Message  # the command line's help does without numpy

DEFAULT_MAX_TOKENS = 1024
"""Length of an answer that nobody limited, where the context has room for so much."""


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is chosen. The neutral value of each field switches it off.

    Order of work: penalties, temperature, top-k, top-p, min-p, draw. temperature 0 (under 1e-5) is greedy.
    The same seed and the same prompt give the same tokens, whatever else the engine does meanwhile.
    """

    temperature: Annotated[float, Meta(description="0 is greedy: the same question has the same answer.")] = 0.0
    top_k: Annotated[int, Meta(description="Draw from this many likeliest tokens; 0: all.")] = 0
    top_p: Annotated[float, Meta(description="Draw from the likeliest tokens of this much probability.")] = 1.0
    min_p: Annotated[float, Meta(description="Leave out tokens below this share of the likeliest one.")] = 0.0
    repetition_penalty: Annotated[float, Meta(description="Above 1: tokens seen before are less likely.")] = 1.0
    presence_penalty: Annotated[
        float,
        Meta(description="Above 0: tokens of the answer so far are less likely; 1.5 against endless repeating."),
    ] = 0.0
    frequency_penalty: Annotated[
        float, Meta(description="Above 0: the same, the more so the more often they came.")
    ] = 0.0
    seed: Annotated[int | None, Meta(description="The same seed gives the same answer.")] = None

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value of another type or outside its range."""
        settle(self, SamplingParams)


class GenerationOptions(SamplingParams, frozen=True, kw_only=True):
    """How a request is answered. In the description of a field is what the command line says of it."""

    max_tokens: Annotated[
        int | None, Meta(description="The answer's length at most; else 1024, or what the context leaves.")
    ] = None
    """Reasoning included; None: `DEFAULT_MAX_TOKENS`, or what the context leaves."""
    stop: Annotated[tuple[str, ...], Meta(description="Text that ends the answer; may be repeated.")] = ()
    enable_thinking: Annotated[
        bool | None, Meta(description="Reason first or not, where the model leaves a choice.")
    ] = None
    """None: as the chat template has it."""
    num_logprobs: Annotated[int | None, Meta(description="This many likeliest tokens at each place.")] = None
    """None: no logprobs. N >= 0: per token, its logprob and those of the N likeliest tokens at its place."""
    stop_on_repetition: Annotated[
        bool, Meta(description="End an answer that only repeats itself, token for token.")
    ] = False
    """`repetition.py` says how long a cycle of tokens must be repeated exactly."""
    parse_special: Annotated[
        bool, Meta(description="Let control tokens spelled in the question, as <|im_end|>, take effect.")
    ] = False
    """By default they are plain text: what is quoted or typed never opens or closes a turn (decision 50)."""
    ignore_eos: Annotated[bool, Meta(description="Go on past end tokens, up to max_tokens; for benchmarks.")] = False
    schema: Annotated[str, Meta(description="The answer is JSON of this JSON schema.")] = ""
    """As text; the clients take an object, or a pydantic model's class, too."""
    regex: Annotated[str, Meta(description="The answer matches this regular expression, as a whole.")] = ""
    choice: Annotated[tuple[str, ...], Meta(description="The answer is one of these; may be repeated.")] = ()
    lark: Annotated[str, Meta(description="The answer is of this grammar, in llguidance's dialect of Lark.")] = ""
    actions: Annotated[str, Meta(description="The answer is an action in this format, as pocket or ui_venus.")] = ""
    """`edge_runtime.actions.names()` lists them; `answer.actions(name)` reads them."""
    thinking_budget: Annotated[
        int | None, Meta(description="Tokens that a thought may take; then it is closed, and the answer follows.")
    ] = None
    """Of `max_tokens`, which counts both."""
    effort: Annotated[str, Meta(description="The same in a word: none, minimal, low, medium or high.")] = ""
    """See `EFFORTS`."""
    tools: Annotated[tuple[ToolDefinition, ...], Meta(description="What the model may call.")] = ()
    """Dicts, also as OpenAI's interface has them, are taken for definitions."""
    tool_choice: Annotated[str, Meta(description="auto, none, required, or name:NAME of the tool to call.")] = "auto"
    """auto: the model chooses; none: it is not told of tools. The clients take a dict that names a function, too."""
    parallel_tool_calls: Annotated[bool, Meta(description="Take several calls in one answer.")] = True
    speculation: Annotated[
        bool | None, Meta(description="Guess tokens from what was said before, and run several at a time; for speed.")
    ] = None
    """None: where the tokens are bit for bit the same, which they are not on `portable` (decision 75)."""
    cache_salt: Annotated[
        str, Meta(description="Find again, in the server's cache, only what was asked with the same word.")
    ] = ""
    """Keeps callers apart who must not learn from timings what others have asked: a gateway has one for each."""

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value of another type or outside its range; lists become tuples."""
        settle(self, GenerationOptions)
        given = [name for name in ("schema", "regex", "choice", "lark", "actions") if getattr(self, name)]
        if len(given) > 1:
            raise BadParameter(f"{' and '.join(given)} are given; an answer takes one of them")
        if given and self.stop:
            raise BadParameter(f"stop and {given[0]} are given; an answer of a grammar ends with it, so leave stop out")
        if self.effort and self.thinking_budget is not None:
            raise BadParameter("effort and thinking_budget are given; effort stands for a budget, so give one of them")
        check_tools(self.tools, self.tool_choice)
        if self.offered_tools and given not in ([], ["schema"]):
            raise BadParameter(f"{given[0]} and tools are given; with tools an answer in words may only have a schema")

    @property
    def offered_tools(self) -> tuple[ToolDefinition, ...]:
        """Those that the model is told of."""
        return () if self.tool_choice == "none" else self.tools

    @property
    def most_thoughts(self) -> int | None:
        """How many tokens a thought may have; None: no limit."""
        return EFFORTS[self.effort] if self.effort else self.thinking_budget

    @property
    def salt(self) -> bytes:
        """`cache_salt` as digests take it: 16 bytes, or none for none."""
        return hashlib.blake2b(self.cache_salt.encode(), digest_size=16).digest() if self.cache_salt else b""

    @classmethod
    def of(
        cls, options: SamplingParams | None, fields: Mapping[str, Any], caller: str, *, wraps: bool = False
    ) -> GenerationOptions:
        """`options` with `fields` in place of its own; one named `sampling` stands for all that `SamplingParams` has.

        `wraps`: one string in place of a list is a list of it. Raises `BadParameter`, or `TypeError` for a field that
        does not exist, which `caller` was given.
        """
        rest = dict(fields)
        sampling = rest.pop("sampling", None)
        known = cls.__struct_fields__
        for name in rest:
            if name not in known:
                raise TypeError(
                    f"{caller} got an unexpected option {name!r}; known are {', '.join(known)} and sampling"
                )
        if isinstance(sampling, GenerationOptions):
            raise BadParameter(f"sampling is of type {type(sampling).__name__}; give it as options=")
        values: dict[str, Any] = {}
        for base, name, wanted in (
            (options, "options", "GenerationOptions(max_tokens=...)"),
            (sampling, "sampling", "SamplingParams(temperature=...)"),
        ):
            if not isinstance(base, (SamplingParams, type(None))):
                raise BadParameter(f"{name} is of type {type(base).__name__}; wanted {wanted}")
            values |= {} if base is None else msgspec.structs.asdict(base)
        lists = [name for name, (kind, _) in kinds(cls).items() if get_origin(kind) is tuple] if wraps else ()
        rest |= {name: (rest[name],) for name in lists if isinstance(rest.get(name), str)}
        for name in ("schema", "regex", "choice", "lark", "actions"):
            if name in rest and rest[name] is None:
                del rest[name]
            elif name in rest and isinstance(rest[name], (str, list, tuple)) and not rest[name]:
                raise BadParameter(f"{name} is empty; leave it out where the answer may be anything")
        for name, convert in (("schema", schema_text), ("tool_choice", choice_of)):
            if name in rest:
                rest[name] = convert(rest[name])
        return cls(**values | rest)


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """Which session a request belongs to, and where its messages go."""

    session_id: str
    turn: int | None = None
    """The turn that the messages replace, and with it all that follow; counted from 0, negative from the end.

    None: they follow the last one. Without messages the same question is answered anew.
    """
    supersede: bool = False
    """A request that this session is answering is cancelled, not waited for."""
    skip_unchanged: bool = False
    """An image that is the very one that the session shows last is left out: what is asked is asked about that."""


@dataclass(frozen=True, slots=True, init=False)
class GenerationRequest:
    """One chat turn to answer: the whole conversation so far, and how to answer it."""

    request_id: str
    messages: tuple[Message, ...]
    options: GenerationOptions
    session: SessionTurn | None
    """The conversation that `messages` continue; None: they are all of it."""
    num_unchanged: int
    """Images that its session has left out of `messages`."""

    def __init__(
        self,
        request_id: str,
        messages: Sequence[Message],
        options: SamplingParams | None = None,
        *,
        session: SessionTurn | None = None,
        num_unchanged: int = 0,
        **fields: Any,
    ) -> None:
        """`options`, or some of their fields by name, or both; as `GenerationOptions.of` takes them.

        Raises as that does, and `BadPrompt` for messages in another form: what else there is, the clients convert.
        """
        object.__setattr__(self, "request_id", request_id)
        object.__setattr__(self, "messages", _messages(messages))
        object.__setattr__(self, "options", GenerationOptions.of(options, fields, "GenerationRequest()"))
        object.__setattr__(self, "session", session)
        object.__setattr__(self, "num_unchanged", num_unchanged)

    def without_messages(self, max_tokens: int) -> GenerationRequest:
        """What is left to know of it when its messages are tokens, for an answer that may be so long."""
        session, num_unchanged = self.session, self.num_unchanged
        return GenerationRequest(
            self.request_id, (), self.options, session=session, num_unchanged=num_unchanged, max_tokens=max_tokens
        )


def _messages(messages: object) -> tuple[Message, ...]:
    from edge_runtime.model.conversation import Message  # noqa: PLC0415 - as above

    wanted = "wanted Message objects, as edge_runtime.question(...) makes them"
    if not isinstance(messages, (tuple, list)):
        raise BadPrompt(f"messages is {type_of(messages)}; {wanted}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Message):
            raise BadPrompt(f"message {number} is {type_of(message)}; {wanted}")
    return tuple(messages)
