"""A chat as callers write it, to the engine's messages: strings, `Message`s, dicts as other libraries take them.

What cannot be converted is refused here, at the client, and by name: "message 3, image 2: ..."; all count from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypeVar

from edge_runtime.engine.option_checks import plain_text, shown, type_of
from edge_runtime.errors import BadImage, BadParameter, BadPrompt, RequestError
from edge_runtime.model.conversation import ImagePart, Message, Part, Role, TextPart, VideoPart
from edge_runtime.model.tools import ToolCall, json_text
from edge_runtime.serving.images import picture

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
Chat = str | Message | Mapping[str, Any] | Iterable[str | Message | Mapping[str, Any]]
"""What the clients take for messages. A string is a message of the user's."""

_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_REASONING = ("reasoning_content", "reasoning")
_MAX_PIXELS = 2**31 - 1
"""As much as the wire takes."""
_MAX_SECONDS = 1e9


def messages_of(chat: Chat) -> tuple[Message, ...]:
    """The messages of a chat, every picture in them bytes or uint8 [H, W, 3].

    Raises `BadPrompt`, `BadImage` or `BadParameter`, naming message and part.
    """
    said_one = isinstance(chat, (str, Message, Mapping))
    if not said_one and not _is_list(chat):
        raise BadPrompt(f"messages is {type_of(chat)}; wanted a string, a Message, or a list of messages")
    turns: tuple[object, ...] = (chat,) if said_one else tuple(chat)  # type: ignore[arg-type]
    if not turns:
        raise BadPrompt("messages is empty; wanted at least one message")
    try:
        return tuple(_at(f"message {number}", _message, said) for number, said in enumerate(turns, 1))
    except _RefusedAt as refused:
        raise _kind_of(refused.error)(f"{', '.join(refused.places)}: {refused.error}") from refused.error


# ---- one message -----------------------------------------------------------------------------------------------


def _message(said: object) -> Message:
    if isinstance(said, str):
        said = Message("user", said)
    elif isinstance(said, Mapping):
        said = _message_of_dict(said)
    if not isinstance(said, Message):
        raise BadPrompt(f"it is {type_of(said)}; wanted a Message, a string, or a dict with role and content")
    if not isinstance(said.role, str) or said.role not in ROLES:
        raise BadPrompt(f"role {said.role!r:.80} is unknown; wanted one of {', '.join(ROLES)}")
    counts = {"text": 0, "image": 0, "video": 0}
    parts: list[Part] = []
    for part in said.content:
        kind = "text" if isinstance(part, TextPart) else "image" if isinstance(part, ImagePart) else "video"
        counts[kind] += 1
        parts.append(_at(f"{kind} {counts[kind]}", _ready, part))
    plain_text(said.reasoning, "its reasoning", BadPrompt)
    plain_text(said.tool_call_id, "its tool_call_id", BadPrompt)
    return replace(said, content=tuple(parts))


def _ready(part: Part) -> Part:
    """The part with its text checked, its pictures converted."""
    if isinstance(part, TextPart):
        return TextPart(plain_text(part.text, "it", BadPrompt))
    if isinstance(part, ImagePart):
        for name in ("min_pixels", "max_pixels"):
            _check_pixels(name, getattr(part, name))
        return replace(part, data=picture(part.data))
    return _ready_video(part)


def _ready_video(part: VideoPart) -> VideoPart:
    if not _is_list(part.frames) or not _is_list(part.timestamps_s):
        raise BadImage(
            "its frames and timestamps_s must be lists; of a file, edge_runtime.vision.video.read_video makes them"
        )
    frames, times = tuple(part.frames), tuple(part.timestamps_s)
    if not frames or len(frames) != len(times):
        raise BadImage(f"it has {len(frames)} frames and {len(times)} timestamps; it needs one for each")
    if not all(isinstance(time, Real) and 0 <= time < _MAX_SECONDS for time in times):
        raise BadImage(f"its timestamps must be seconds from 0 to {_MAX_SECONDS:g}")
    ready = tuple(_at(f"frame {number}", picture, frame) for number, frame in enumerate(frames, 1))
    return VideoPart(ready, tuple(float(time) for time in times))


def _check_pixels(name: str, value: Any) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_whole and 1 <= value <= _MAX_PIXELS):
        raise BadParameter(f"{name} is {shown(value)}; it must be a whole number from 1 to {_MAX_PIXELS}, or None")


# ---- messages as dicts -----------------------------------------------------------------------------------------


def _message_of_dict(said: Mapping[str, Any]) -> Message:
    _check_keys(said, ("role", "content", "tool_calls", "tool_call_id", *_REASONING))
    calls = _tool_calls(said.get("tool_calls"))
    if "role" not in said or ("content" not in said and not calls):
        raise BadPrompt(f"it has the keys {', '.join(map(str, said)) or 'none'}; wanted role and content")
    content = said.get("content")
    if isinstance(content, (list, tuple)):
        content = [_at(f"part {number}", _part, part) for number, part in enumerate(content, 1)]
    elif isinstance(content, Mapping):
        content = [_at("part 1", _part, content)]
    answered = said.get("tool_call_id")
    thought = next((said[name] for name in _REASONING if said.get(name) is not None), "")
    return Message(
        said["role"],
        content,
        tool_calls=calls,
        tool_call_id="" if answered is None else answered,
        reasoning=thought,
    )


def _tool_calls(calls: object) -> list[ToolCall]:
    if calls is None:
        return []
    if not _is_list(calls):
        raise BadPrompt(f"its tool_calls are {type_of(calls)}; wanted a list")
    return [_at(f"tool call {number}", _tool_call, call) for number, call in enumerate(calls, 1)]  # type: ignore[arg-type, var-annotated]


def _tool_call(call: object) -> ToolCall:
    """A `ToolCall`, or `{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}`.

    Arguments may be what their JSON says, too.
    """
    if isinstance(call, ToolCall):
        return call
    if not isinstance(call, Mapping):
        raise BadPrompt(f"it is {type_of(call)}; wanted a ToolCall, or a dict with id and function")
    _check_keys(call, ("id", "type", "function", "name", "arguments", "index"))
    function = call.get("function", call)
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise BadPrompt(f"its type is {call.get('type')!r:.80}; only functions can be called")
    _check_keys(function, ("id", "type", "name", "arguments", "index"))
    arguments = function.get("arguments")
    call_id = call.get("id")
    return ToolCall(
        "" if call_id is None else call_id,
        function.get("name", ""),
        json_text({} if arguments is None else arguments, "the arguments"),
    )


def _part(part: object) -> object:
    """The part a dict describes; what is none is left for `Message` to judge."""
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if not isinstance(kind, str):
        raise BadPrompt(f"its type is {type_of(kind)}; wanted a string, as 'text'")
    if kind in _TEXT_TYPES:
        _check_keys(part, ("type", "text"))
        return TextPart(part.get("text", None))
    if kind in _IMAGE_TYPES:
        return _image(part)
    if kind == "video":
        return _video(part)
    known = ", ".join((*_TEXT_TYPES, *_IMAGE_TYPES, "video"))
    raise BadPrompt(f"its type is {kind!r:.80}; wanted one of {known}")


def _image(part: Mapping[str, Any]) -> ImagePart:
    """`{"type": "image", "image": source}`, `{"type": "image_url", "image_url": {"url": "data:..."}}` and the like."""
    names = ("image", "image_url", "url", "path")
    _check_keys(part, ("type", "min_pixels", "max_pixels", "detail", *names))
    found = [part[name] for name in names if part.get(name) is not None]
    if len(found) != 1:
        raise BadImage(f"it has {len(found)} sources; wanted one of the keys {', '.join(names)}")
    source: Any = found[0]
    detail = part.get("detail")
    if isinstance(source, Mapping):
        _check_keys(source, ("url", "detail"))
        source, detail = source.get("url"), source.get("detail", detail)
    if detail is not None and not (isinstance(detail, str) and detail == "auto"):
        raise BadParameter(f"detail {detail!r:.80} is not known here; use max_pixels")
    return ImagePart(source, part.get("min_pixels"), part.get("max_pixels"))


def _video(part: Mapping[str, Any]) -> VideoPart:
    """`{"type": "video", "video": [frame, ...], "timestamps_s": [...]}`, or with `fps` for frames evenly spaced."""
    _check_keys(part, ("type", "video", "timestamps_s", "fps"))
    frames, fps = part.get("video"), part.get("fps")
    times: Any = part.get("timestamps_s")
    if not isinstance(frames, (list, tuple)):
        raise BadImage(
            "a video is a list of frames here; of a file, edge_runtime.vision.video.read_video makes a VideoPart"
        )
    frames = tuple(frames)
    if times is None:
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
            raise BadImage("it has neither timestamps_s, the second of each frame, nor fps, a number more than 0")
        times = tuple(number / fps for number in range(len(frames)))
    return VideoPart(frames, times)


def _check_keys(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Keys that are not understood are refused, not ignored; those that are None say nothing."""
    unknown = [str(key) for key in given if key not in known and given[key] is not None]
    if unknown:
        raise BadPrompt(f"the key {unknown[0]!r:.80} is not understood; known are {', '.join(known)}")


# ---- names -----------------------------------------------------------------------------------------------------

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class _RefusedAt(Exception):
    """A refusal on its way up, and where it happened, outermost first."""

    def __init__(self, places: tuple[str, ...], error: RequestError) -> None:
        super().__init__()
        self.places = places
        self.error = error


def _at(place: str, convert: Callable[[_In], _Out], value: _In) -> _Out:
    """`convert(value)`; a refusal learns its place."""
    try:
        return convert(value)
    except RequestError as error:
        raise _RefusedAt((place,), error) from error
    except _RefusedAt as refused:
        raise _RefusedAt((place, *refused.places), refused.error) from refused.error


def _kind_of(error: RequestError) -> type[RequestError]:
    """Its class, or the nearest that is made of a message alone."""
    return next(kind for kind in (BadImage, BadPrompt, BadParameter, RequestError) if isinstance(error, kind))


def _is_list(value: object) -> bool:
    """Whether it is a list of things, in whatever container: a tuple, a deque, an array."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))
