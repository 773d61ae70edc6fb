"""The bundle's chat template: messages to text. Knows nothing of tokens.

Templates are written for transformers, so the environment is its: jinja2's immutable sandbox with trimmed blocks, loop
controls, `raise_exception`, `strftime_now`, `tojson` that keeps Unicode, the names of the special tokens, and the
`{% generation %}` tag (which only marks training targets, so its body is rendered as it is). See transformers'
`utils/chat_template_utils.py`. Unlike there, a rendering is bounded (`sandbox.py`).

Some templates join `message.content` as a string, most go through it as a list of parts, some do both; which content
each role's messages must have is found out by trying (`content_format.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from edge_runtime.errors import BadPrompt, BundleError
from edge_runtime.model.content_format import ContentFormats, find_content_formats
from edge_runtime.model.conversation import Message, TextPart
from edge_runtime.model.sandbox import LimitedEnvironment, charged, limited

MAX_TEMPLATE_BYTES = 1 << 20
"""Real ones have some five thousand."""

_THINKING = "enable_thinking"  # what Qwen's templates, and with them the field's, call it

_REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, NameError),
    *(RuntimeError, AssertionError, MemoryError),
)
"""What a template, a program of strangers, can raise; a jinja2 error among it."""


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

    def render(self, messages: Sequence[Message], enable_thinking: bool | None = None) -> str:
        """The text of the chat up to where the answer begins.

        `enable_thinking` None leaves the choice to the template. Raises `BadPrompt` where the template refuses the
        messages, or does not end.
        """
        if not messages:
            raise BadPrompt("a request needs at least one message")
        size = sum(len(part.text) for message in messages for part in message.content if isinstance(part, TextPart))
        try:
            return self._render([self.formats.as_dict(message) for message in messages], size, enable_thinking)
        except _REFUSALS as error:
            raise BadPrompt(f"the chat template refuses these messages: {error}") from error

    def _render(self, messages: list[dict[str, Any]], size: int, enable_thinking: bool | None = None) -> str:
        names = {**self._special_tokens_map, "messages": messages, "tools": None, "documents": None}
        if enable_thinking is not None:
            names[_THINKING] = enable_thinking
        with limited(size + 64 * len(messages)):
            return self._template.render(names, add_generation_prompt=True)


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
