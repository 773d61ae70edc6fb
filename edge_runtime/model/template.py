"""The bundle's chat template: messages to text. Knows nothing of tokens.

Templates are written for transformers, so the environment is its: jinja2's immutable sandbox with trimmed blocks, loop
controls, `raise_exception`, `strftime_now`, `tojson` that keeps Unicode, the names of the special tokens, and the
`{% generation %}` tag (which only marks training targets, so its body is rendered as it is). See transformers'
`utils/chat_template_utils.py`. Unlike there, a rendering is bounded (`sandbox.py`).

Some templates join `message.content` as a string, most go through it as a list of parts, some do both. transformers
hands a template whatever its caller wrote, and other servers guess from the template's syntax. Here a short chat is
rendered with every combination: a form that is right prints the text, and not the list itself (as `~` and `+` and
`{{ }}` do with a list). Lists are preferred, since only they can hold pictures.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from edge_runtime.errors import BadPrompt, BundleError
from edge_runtime.model.conversation import ImagePart, Message, Part, Role, TextPart
from edge_runtime.model.sandbox import LimitedEnvironment, TemplateLimit, charged, limited
from edge_runtime.model.tool_use import STRANGE, ContentFormat, ToolUse, find_tool_use
from edge_runtime.model.tools import ToolDefinition

MAX_TEMPLATE_BYTES = 1 << 20
"""Real ones have some five thousand."""

_THINKING = "enable_thinking"  # what Qwen's templates, and with them the field's, call it

_REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, NameError),
    *(RuntimeError, AssertionError, MemoryError),
)
"""What a template, a program of strangers, can raise; a jinja2 error among it."""


Render = Callable[[list[dict[str, Any]], int], str]
"""Renders messages as dicts, given about how many characters they have."""

_CHATS: tuple[tuple[Role, ...], ...] = (
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("user",),
)
"""What is tried, most telling first: some templates know no system message, some no earlier turns."""


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, path: Path, special_tokens_map: Mapping[str, str | Sequence[str]] | None = None) -> None:
        """Compile the template file, and find out what it wants; it sees the names in `special_tokens_map`.

        Raises `BundleError` if it is not valid jinja2, or does not end.
        """
        self._special_tokens_map: dict[str, Any] = dict(special_tokens_map or {})
        environment = LimitedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = charged("tojson", _tojson)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            if path.stat().st_size > MAX_TEMPLATE_BYTES:
                raise ValueError(f"it has more than {MAX_TEMPLATE_BYTES} bytes")
            source = path.read_text(encoding="utf-8")
            with limited(len(source)):
                tree = environment.limited_tree(source)
                self._variables = meta.find_undeclared_variables(tree)
                self._template = environment.from_string(tree)
                self.formats: ContentFormats = find_content_formats(self._render)
            with limited(len(source)):
                self.tool_use = self._find_tool_use()
                """What it does with tools."""
        except (*_REFUSALS, SyntaxError) as error:
            raise BundleError(f"{path} is not a chat template: {error}; export the bundle again") from error

    @property
    def switches_thinking(self) -> bool:
        """Whether the template knows `enable_thinking`, as those of models that reason on request do."""
        return _THINKING in self._variables

    def begins(self, text: str) -> bool:
        """Whether a rendered `text` has its `bos_token` already, so that the tokenizer must not add it again."""
        bos_token = self._special_tokens_map.get("bos_token")
        return isinstance(bos_token, str) and bool(bos_token) and text.startswith(bos_token)

    def render(
        self,
        messages: Sequence[Message],
        enable_thinking: bool | None = None,
        tools: Sequence[ToolDefinition] = (),
    ) -> str:
        """The text of the chat up to where the answer begins; it tells the model of `tools`.

        `enable_thinking` None leaves the choice to the template. Raises `BadPrompt` where the template refuses the
        messages, does not end, or has no place for tools or calls that there are.
        """
        if not messages:
            raise BadPrompt("a request needs at least one message")
        self._refuse_lost_tools(messages, tools)
        try:
            said = [self._as_dict(message) for message in messages]
            offered = [tool.as_dict() for tool in tools] or None
            return self._render(said, sum(map(_size, messages)) + sum(map(_size, tools)), enable_thinking, offered)
        except _REFUSALS as error:
            raise BadPrompt(f"the chat template refuses these messages: {error}") from error

    def _as_dict(self, message: Message) -> dict[str, Any]:
        """As `ContentFormats.as_dict`, with what is of tools, and of thoughts."""
        if message.role == "tool":
            return {**self._tool_message(message), "tool_call_id": message.tool_call_id}
        thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
        if not message.tool_calls:
            return {**self.formats.as_dict(message), **thought}
        # Content that says nothing must be empty: templates put a line break between content and a call.
        said = [part for part in message.content if not isinstance(part, TextPart) or part.text]
        calls = [call.as_dict() for call in message.tool_calls]
        return {**self.formats.as_dict(replace(message, content=tuple(said))), **thought, "tool_calls": calls}

    def _tool_message(self, message: Message) -> dict[str, Any]:
        parts = [_part_as_dict(part) for part in message.content]
        if self.tool_use.content == "parts":
            return {"role": "tool", "content": parts}
        if not all(isinstance(part, TextPart) for part in message.content):
            raise BadPrompt(
                "this model's chat template takes text only from tools; send the images in a user message behind it"
            )
        return {"role": "tool", "content": "".join(part["text"] for part in parts)}

    def _refuse_lost_tools(self, messages: Sequence[Message], tools: Sequence[ToolDefinition]) -> None:
        lost = "tools" if tools and not self.tool_use.prints_tools else ""
        if not self.tool_use.prints_calls and any(message.role == "tool" or message.tool_calls for message in messages):
            lost = "tool calls and their results"
        if lost:
            raise BadPrompt(
                f"this model's chat template has no place for {lost}: the model was not trained for them; leave them "
                "out, or write them into the text of messages"
            )

    def _render(
        self,
        messages: list[dict[str, Any]],
        size: int,
        enable_thinking: bool | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        names = {**self._special_tokens_map, "messages": messages, "tools": tools, "documents": None}
        if enable_thinking is not None:
            names[_THINKING] = enable_thinking
        with limited(size + 64 * (len(messages) + len(tools or ()))):
            return self._template.render(names, add_generation_prompt=True)

    def _find_tool_use(self) -> ToolUse:
        def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str | None:
            try:
                return self._render(messages, 1000, None, tools)
            except TemplateLimit:
                raise
            except _REFUSALS:
                return None

        return find_tool_use(render, self.formats.of_role["user"])


@dataclass(frozen=True, slots=True)
class ContentFormats:
    """What the messages of each role must hold where all of it is text."""

    of_role: Mapping[Role, ContentFormat]
    takes_media: bool
    """Whether a user's message may be a list with a picture in it."""
    prints_text: bool
    """Whether any way was found to get a user's text printed."""

    def as_dict(self, message: Message) -> dict[str, Any]:
        """`message` as the template takes it. Raises `BadPrompt` for pictures where it takes strings only."""
        content: Any = [_part_as_dict(part) for part in message.content]
        if self.of_role[message.role] == "string":
            if all(isinstance(part, TextPart) for part in message.content):
                content = "".join(part["text"] for part in content)
            elif not self.takes_media:
                raise BadPrompt(
                    "this model's chat template takes text only: it joins the content of messages as strings, so it "
                    "has no place for images or videos; export the model with its original chat_template.jinja"
                )
        return {"role": message.role, "content": content}


def find_content_formats(render: Render) -> ContentFormats:
    """Try what the template behind `render` takes. Raises `TemplateLimit` for one that does not end."""
    for chat in _CHATS:
        roles = tuple(dict.fromkeys(chat))
        ways = itertools.product(("parts", "string"), repeat=len(roles))
        for way in sorted(ways, key=lambda way: len(set(way))):  # one form for all roles, before mixtures
            formats: dict[Role, ContentFormat] = dict(zip(roles, way, strict=True))  # type: ignore[arg-type]
            if _prints(render, [(role, formats[role]) for role in chat]):
                user = formats["user"]
                of_role: dict[Role, ContentFormat] = {"system": user, "user": user, "assistant": user, **formats}
                takes_media = user == "parts" or _prints(render, [("user", "parts")], with_image=True)
                return ContentFormats(of_role, takes_media, prints_text=True)
    return ContentFormats(
        {"system": "parts", "user": "parts", "assistant": "parts"}, takes_media=True, prints_text=False
    )


def _prints(render: Render, chat: list[tuple[Role, ContentFormat]], *, with_image: bool = False) -> bool:
    """Whether the template prints the text of every message of `chat`, and nothing of a list's own."""
    messages = []
    for index, (role, form) in enumerate(chat):
        text = f"edge text {index}."
        parts = [{"type": "image"}] * with_image + [{"type": "text", "text": text, STRANGE: STRANGE}]
        messages.append({"role": role, "content": text if form == "string" else parts})
    try:
        printed = render(messages, 1000)
    except TemplateLimit:
        raise
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError):
        return False
    return STRANGE not in printed and all(f"edge text {index}." in printed for index in range(len(chat)))


def _size(said: Message | ToolDefinition) -> int:
    """Characters that a template is given."""
    if isinstance(said, ToolDefinition):
        return len(said.name) + len(said.description) + len(said.parameters)
    calls = sum(len(call.name) + len(call.arguments) for call in said.tool_calls)
    return calls + len(said.reasoning) + sum(len(part.text) for part in said.content if isinstance(part, TextPart))


def _part_as_dict(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "video"}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


class _Generation(Extension):
    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
