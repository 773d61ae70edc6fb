"""Control tokens that are only spelled: `<|im_end|>` typed by a user, or quoted from a page, stays text (decision 50).

A template makes one string of what it writes itself and of what was said, and the tokenizer cannot tell them apart. So
every control token spelled in a message is written in other characters before the template sees it (`shield`), of the
same number and strange to every template; the tokenizer is told how to read them, and reads them as text. Messages that
spell none, nearly all, are not touched. Thoughts are treated alike, and the strings inside definitions of tools and
calls of them, which a template prints as JSON. Knows nothing of templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from edge_runtime.errors import BadPrompt
from edge_runtime.model.conversation import Message, Part, Role, TextPart
from edge_runtime.model.tools import ToolDefinition, strings_in

_SHIELDS = range(0xF0000, 0x10FFFE)
"""The private planes of Unicode: no text of a language, no token and no template has these characters."""
_TRUSTED_WITH_MARKUP: frozenset[Role] = frozenset({"system", "assistant"})
"""Who may spell tokens that are markup but not special (`<think>`, `<tool_call>`): an answer that is sent back must be
the tokens that the model wrote, and instructions on tools name them."""


@dataclass(frozen=True, slots=True)
class Shielded:
    """Messages and tools in which no control token is spelled."""

    messages: Sequence[Message]
    shields: Mapping[int, str]
    """Code points that stand for another character, and that character; empty where nothing was spelled."""
    tools: Sequence[ToolDefinition] = ()


class ControlTokens:
    """The control tokens of one tokenizer, looked for in messages."""

    def __init__(self, added_tokens: Mapping[str, bool]) -> None:
        """`added_tokens`: the spelling of each, and whether it is special."""
        special = {token for token, is_special in added_tokens.items() if is_special and token}
        self._special = _Spellings(special)
        self._all = _Spellings(special | {token for token in added_tokens if _is_markup(token)})

    def shield(self, messages: Sequence[Message], tools: Sequence[ToolDefinition] = ()) -> Shielded:
        """`messages` and `tools` with every control token in their text respelled; the same ones where there is none.

        Raises `BadPrompt` for text that holds all of Unicode's private characters as well.
        """
        found = [list(self._spans(message)) for message in messages]
        beside = [text for message in messages for text in _beside_content(message)]
        beside += [text for tool in tools for text in (tool.description, *strings_in(tool.schema))]
        spells_beside = any(self._spells(text) for text in beside)
        if not any(found) and not spells_beside:
            return Shielded(messages, {}, tools)
        texts = [part.text for message in messages for part in message.content if isinstance(part, TextPart)]
        shield_of = self._unused_characters([*texts, *beside])

        def shielded(text: str) -> str:
            spans = [(0, start, stop) for start, stop in self._all.find(text)]
            return _respelled_text(text, spans, shield_of)

        respelled = [
            replace(message, content=_respelled(message.content, spans, shield_of)) if spans else message
            for message, spans in zip(messages, found, strict=True)
        ]
        if spells_beside:
            respelled = [_changed_beside(message, shielded) for message in respelled]
            tools = [tool.mapped(shielded) for tool in tools]
        return Shielded(respelled, {ord(shield): char for char, shield in shield_of.items()}, tools)

    def _spells(self, text: str) -> bool:
        return next(self._all.find(text), None) is not None

    def spelled(self, messages: Sequence[Message], tokens: Sequence[str]) -> str | None:
        """The first of `tokens` that some message's text spells, also across its parts."""
        spellings = _Spellings(set(tokens))
        for message in messages:
            for run in _text_runs(message.content):
                joined = "".join(text for _, text, _ in run)
                for start, stop in spellings.find(joined):
                    return joined[start:stop]
        return None

    def _spans(self, message: Message) -> Iterator[tuple[int, int, int]]:
        """Where `message` spells control tokens: (index of the part, start, stop)."""
        spellings = self._special if message.role in _TRUSTED_WITH_MARKUP else self._all
        for run in _text_runs(message.content):
            for start, stop in spellings.find("".join(text for _, text, _ in run)):
                begin = 0
                for index, text, skipped in run:
                    low, high = max(start, begin), min(stop, begin + len(text))
                    if low < high:
                        yield index, low - begin + skipped, high - begin + skipped
                    begin += len(text)

    def _unused_characters(self, texts: Sequence[str]) -> dict[str, str]:
        """A private character that is in none of `texts`, for each character of a control token."""
        used = {char for text in texts for char in set(text) if ord(char) >= _SHIELDS.start}
        free = (chr(code) for code in _SHIELDS if chr(code) not in used)
        shield_of = dict(zip(sorted(self._all.characters), free, strict=False))
        if len(shield_of) < len(self._all.characters):
            raise BadPrompt("the text uses all private characters of Unicode; remove them")
        return shield_of


class _Spellings:
    """Finds any of some strings, the longest at each place; as fast as a search for one of two characters."""

    def __init__(self, tokens: set[str]) -> None:
        self._tokens = frozenset(tokens)
        self._lengths = sorted({len(token) for token in tokens}, reverse=True)
        self.characters = frozenset("".join(tokens))
        self._first = sorted({token[0] for token in tokens})
        second = {token[1] for token in tokens if len(token) > 1}
        follows = "" if len(second) == 0 or min(map(len, tokens)) == 1 else f"(?={_any_of(second)})"
        self._start = re.compile(_any_of(self._first) + follows) if tokens else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, stop) of every spelling in `text`, none inside another."""
        if self._start is None or not any(char in text for char in self._first):
            return
        stop = 0
        for match in self._start.finditer(text):
            start = match.start()
            length = next((n for n in self._lengths if text[start : start + n] in self._tokens), 0)
            if length and start >= stop:
                stop = start + length
                yield start, stop


def _any_of(characters: Iterable[str]) -> str:
    return "[" + "".join(map(re.escape, sorted(characters))) + "]"


def _is_markup(token: str) -> bool:
    return len(token) > 2 and (token[0], token[-1]) in {("<", ">"), ("[", "]")}


def _text_runs(content: Sequence[Part]) -> Iterator[list[tuple[int, str, int]]]:
    """Runs of text parts that a template may join: (index, text, characters left out before it).

    Of several parts the spaces around each are left out: a template that trims them must not complete a token.
    """
    for is_text, group in groupby(enumerate(content), lambda item: isinstance(item[1], TextPart)):
        if not is_text:
            continue
        parts = [(index, part.text) for index, part in group if isinstance(part, TextPart)]
        if len(parts) == 1:
            yield [(parts[0][0], parts[0][1], 0)]
        else:
            yield [(index, text.strip(), len(text) - len(text.lstrip())) for index, text in parts]


def _respelled(
    content: Sequence[Part], spans: Sequence[tuple[int, int, int]], shield_of: Mapping[str, str]
) -> tuple[Part, ...]:
    parts = list(content)
    for index, own in groupby(spans, lambda span: span[0]):
        part = parts[index]
        assert isinstance(part, TextPart)
        parts[index] = TextPart(_respelled_text(part.text, own, shield_of))
    return tuple(parts)


def _respelled_text(text: str, spans: Iterable[tuple[int, int, int]], shield_of: Mapping[str, str]) -> str:
    pieces, done = [], 0
    for _, start, stop in spans:
        pieces += [text[done:start], "".join(shield_of[char] for char in text[start:stop])]
        done = stop
    return "".join([*pieces, text[done:]])


def _beside_content(message: Message) -> Iterator[str]:
    """What a message says beside its content."""
    yield message.reasoning
    for call in message.tool_calls:
        yield from strings_in(call.value())


def _changed_beside(message: Message, change: Callable[[str], str]) -> Message:
    calls = tuple(call.mapped(change) for call in message.tool_calls)
    return replace(message, reasoning=change(message.reasoning), tool_calls=calls)
