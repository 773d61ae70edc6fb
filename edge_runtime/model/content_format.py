"""What a chat template takes as `message.content`, found out by trying: a list of parts, or a string.

transformers hands a template whatever its caller wrote, and other servers guess from the template's syntax. Here a
short chat is rendered with every combination: a form that is right prints the text, and not the list itself (as
`~` and `+` and `{{ }}` do with a list). Lists are preferred, since only they can hold pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from edge_runtime.errors import BadPrompt
from edge_runtime.model.conversation import ImagePart, Message, Part, Role, TextPart
from edge_runtime.model.sandbox import TemplateLimit

ContentFormat = Literal["parts", "string"]

Render = Callable[[list[dict[str, Any]], int], str]
"""Renders messages as dicts, given about how many characters they have."""

_CHATS: tuple[tuple[Role, ...], ...] = (
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("user",),
)
"""What is tried, most telling first: some templates know no system message, some no earlier turns."""

_STRANGE = "edge_part"
"""A key that no template asks a part for: where it is printed, the part itself was."""


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
        parts = [{"type": "image"}] * with_image + [{"type": "text", "text": text, _STRANGE: _STRANGE}]
        messages.append({"role": role, "content": text if form == "string" else parts})
    try:
        printed = render(messages, 1000)
    except TemplateLimit:
        raise
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError):
        return False
    return _STRANGE not in printed and all(f"edge text {index}." in printed for index in range(len(chat)))


def _part_as_dict(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "video"}
