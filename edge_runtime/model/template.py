"""The bundle's chat template: messages to text. Knows nothing of tokens.

Templates are written for transformers, so the environment is its: jinja2's immutable sandbox with trimmed blocks, loop
controls, `raise_exception`, `strftime_now`, `tojson` that keeps Unicode, and the `{% generation %}` tag (which only
marks training targets, so its body is rendered as it is). See transformers' `utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_runtime.errors import BadPrompt, BundleError
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart

_THINKING = "enable_thinking"  # what Qwen's templates, and with them the field's, call it


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, path: Path) -> None:
        """Compile the template file. Raises `BundleError` if it is not valid jinja2."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            source = path.read_text(encoding="utf-8")
            self._template = environment.from_string(source)
            self._variables = meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is not a chat template: {error}; export the bundle again") from error

    @property
    def switches_thinking(self) -> bool:
        """Whether the template knows `enable_thinking`, as those of models that reason on request do."""
        return _THINKING in self._variables

    def render(self, messages: Sequence[Message], enable_thinking: bool | None = None) -> str:
        """The text of the chat up to where the answer begins. Raises `BadPrompt` where the template refuses it.

        `enable_thinking` None leaves the choice to the template.
        """
        if not messages:
            raise BadPrompt("a request needs at least one message")
        try:
            return self._template.render(
                messages=[_as_dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **({} if enable_thinking is None else {_THINKING: enable_thinking}),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            raise BadPrompt(f"the chat template refuses these messages: {error}") from error


def _as_dict(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": [_part_as_dict(part) for part in message.content]}


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
