"""What one request asks for. Knows nothing of how it is served.

`GenerationOptions` is the one list of options: the wire's `generate`, the clients, `edge-runtime ask` and the engine
all take theirs from it, so that a new one is written here, and where it takes effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from edge_runtime.errors import BadParameter, BadPrompt, RequestError

if TYPE_CHECKING:
    from edge_runtime.model.conversation import Message  # the command line's help does without numpy

DEFAULT_MAX_TOKENS = 1024
"""Length of an answer that nobody limited, where the context has room for so much."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "seed": (0, 2**63 - 1),
    "max_tokens": (1, 2**31),
    "num_logprobs": (0, 20),
}
"""Least and largest value of every number, both allowed.

Not `Meta(ge=, le=)`: msgspec would refuse in words of its own, and the wire with another code.
"""
MAX_SALT_LENGTH = 256
_MAX_LENGTHS = {"cache_salt": MAX_SALT_LENGTH}
"""Characters of a string."""
_MAX_STRINGS = 16
_SHOWN = 80
"""Characters of a value that a refusal repeats."""


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
        _settle(self, SamplingParams)


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
    cache_salt: Annotated[
        str, Meta(description="Find again, in the server's cache, only what was asked with the same word.")
    ] = ""
    """Keeps callers apart who must not learn from timings what others have asked: a gateway has one for each."""

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value of another type or outside its range; lists become tuples."""
        _settle(self, GenerationOptions)

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
        lists = [name for name, (kind, _) in _kinds(cls).items() if get_origin(kind) is tuple] if wraps else ()
        rest |= {name: (rest[name],) for name in lists if isinstance(rest.get(name), str)}
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


@dataclass(frozen=True, slots=True, init=False)
class GenerationRequest:
    """One chat turn to answer: the whole conversation so far, and how to answer it."""

    request_id: str
    messages: tuple[Message, ...]
    options: GenerationOptions
    session: SessionTurn | None
    """The conversation that `messages` continue; None: they are all of it."""

    def __init__(
        self,
        request_id: str,
        messages: Sequence[Message],
        options: SamplingParams | None = None,
        *,
        session: SessionTurn | None = None,
        **fields: Any,
    ) -> None:
        """`options`, or some of their fields by name, or both; as `GenerationOptions.of` takes them.

        Raises as that does, and `BadPrompt` for messages in another form: what else there is, the clients convert.
        """
        object.__setattr__(self, "request_id", request_id)
        object.__setattr__(self, "messages", _messages(messages))
        object.__setattr__(self, "options", GenerationOptions.of(options, fields, "GenerationRequest()"))
        object.__setattr__(self, "session", session)


def _messages(messages: object) -> tuple[Message, ...]:
    from edge_runtime.model.conversation import Message  # noqa: PLC0415 - as above

    wanted = "wanted Message objects, as edge_runtime.question(...) makes them"
    if not isinstance(messages, (tuple, list)):
        raise BadPrompt(f"messages is {type_of(messages)}; {wanted}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Message):
            raise BadPrompt(f"message {number} is {type_of(message)}; {wanted}")
    return tuple(messages)


# ---- what a field takes ----------------------------------------------------------------------------------------


def _settle(options: SamplingParams, of: type[SamplingParams]) -> None:
    """Check the fields that `options` has of `of`, and put into them what stands for what they were given."""
    for name, (kind, may_be_none) in _kinds(of).items():
        value = getattr(options, name)
        if value is not None or not may_be_none:
            settled = _settled(name, value, kind, may_be_none)
            if settled is not value:
                msgspec.structs.force_setattr(options, name, settled)


@cache
def _kinds(of: type[SamplingParams]) -> dict[str, tuple[Any, bool]]:
    """Of each field its type, and whether it may be None instead, as its annotation has them."""
    hints = get_type_hints(of)
    found = {}
    for name in of.__struct_fields__:
        kind = hints[name]
        if may_be_none := NoneType in get_args(kind):
            (kind,) = set(get_args(kind)) - {NoneType}
        found[name] = (kind, may_be_none)
    return found


def _settled(name: str, value: Any, kind: Any, may_be_none: bool = False) -> Any:
    """What a field of type `kind` keeps of `value`. Raises `BadParameter`."""
    if get_origin(kind) is tuple:
        return _settled_list(name, value, get_args(kind)[0])
    if kind is str:
        text, most = plain_text(value, name, BadParameter), _MAX_LENGTHS.get(name, inf)
        if len(text) > most:
            raise BadParameter(f"{name} has {len(text)} characters; at most {most} are taken")
        return text
    if kind is bool:
        wanted, fits = "true, false or left out" if may_be_none else "true or false", isinstance(value, bool)
    elif kind in (int, float):
        low, high = _RANGES.get(name, (-inf, inf))
        wanted = f"a whole number from {low} to {high}" if kind is int else f"a number from {low:g} to {high:g}"
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        fits = is_number and low <= value <= high
    else:
        wanted, fits = f"of type {kind}", _converts(value, kind)
    if not fits:
        raise BadParameter(f"{name} is {shown(value)}; it must be {wanted}")
    return float(value) if isinstance(value, float) else value  # of numpy's, which no encoder takes, Python's


def _settled_list(name: str, values: Any, kind: Any) -> tuple[Any, ...]:
    """A tuple of any list; None is an empty one. A string is none: it would be taken letter by letter."""
    what = "string" if kind is str else kind.__name__
    if values is None:
        return ()
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, bytearray, memoryview, Mapping)):
        raise BadParameter(f"{name} is {shown(values)}; wanted a list of {what}s")
    place = f"a {name} string" if kind is str else name
    settled = tuple(_settled(place, value, kind) for value in islice(values, _MAX_STRINGS + 1))
    if len(settled) > _MAX_STRINGS or "" in settled:
        raise BadParameter(f"{name} takes a list of up to {_MAX_STRINGS} {what}s, none of them empty")
    return settled


def _converts(value: object, kind: Any) -> bool:
    try:
        return bool(msgspec.convert(value, kind) == value)
    except msgspec.ValidationError:
        return False


def plain_text(text: object, what: str, refusal: type[RequestError]) -> str:
    """`text`, which is what `what` says. Raises `refusal` for what is no string, or none that has an encoding."""
    if not isinstance(text, str):
        raise refusal(f"{what} is {type_of(text)}; wanted a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refusal(f"{what} holds half a character (U+{ord(text[error.start]):04X}) at {error.start}") from error
    return str.__str__(text)  # of a subclass, which no encoder takes, the plain string


def shown(value: object) -> str:
    """As much of a value as a refusal repeats; Python itself refuses to spell thousands of digits."""
    try:
        return repr(value)[:_SHOWN]
    except ValueError:
        return f"a value {type_of(value)}, too long to show"


def type_of(value: object) -> str:
    """What a refusal says of a value of the wrong type."""
    return "None" if value is None else f"of type {type(value).__name__}"
