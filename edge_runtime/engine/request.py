"""What one request asks for. Knows nothing of how it is served.

`GenerationOptions` is the one list of options: the wire's `generate`, the clients, `edge-runtime ask` and the engine
all take theirs from it, so that a new one is written here, and where it takes effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from edge_runtime.errors import BadParameter

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
"""Least and largest value, both allowed; of two ints: whole numbers only."""
_MAY_BE_NONE = ("seed", "max_tokens", "num_logprobs", "enable_thinking")


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
        """Raise `BadParameter` for a value outside its range; msgspec lets it through as it is."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in _RANGES and not (value is None and name in _MAY_BE_NONE):
                _check(name, value, *_RANGES[name])


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

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value outside its range."""
        SamplingParams.__post_init__(self)
        if self.enable_thinking is not None and not isinstance(self.enable_thinking, bool):
            raise BadParameter(f"enable_thinking is {self.enable_thinking!r}; it must be true, false or left out")
        for name in ("stop_on_repetition", "parse_special", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise BadParameter(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if isinstance(self.stop, str) or len(self.stop) > 16 or not all(isinstance(s, str) and s for s in self.stop):
            raise BadParameter("stop takes a list of up to 16 strings, none of them empty")

    @classmethod
    def of(cls, options: SamplingParams | None, fields: Mapping[str, Any]) -> GenerationOptions:
        """`options` with `fields` in place of its own; one named `sampling` stands for all that `SamplingParams` has.

        Raises `BadParameter`, or `TypeError` for a field that does not exist.
        """
        rest = dict(fields)
        sampling = rest.pop("sampling", None)
        values: dict[str, Any] = {}
        for base, name, wanted in (
            (options, "options", "GenerationOptions(max_tokens=...)"),
            (sampling, "sampling", "SamplingParams(temperature=...)"),
        ):
            if not isinstance(base, (SamplingParams, type(None))):
                raise BadParameter(f"{name} is of type {type(base).__name__}; wanted {wanted}")
            values |= {} if base is None else msgspec.structs.asdict(base)
        return cls(**values | rest)


@dataclass(frozen=True, slots=True, init=False)
class GenerationRequest:
    """One chat turn to answer: the whole conversation so far, and how to answer it."""

    request_id: str
    messages: tuple[Message, ...]
    options: GenerationOptions

    def __init__(
        self, request_id: str, messages: tuple[Message, ...], options: SamplingParams | None = None, **fields: Any
    ) -> None:
        """`options`, or some of their fields by name, or both; as `GenerationOptions.of` takes them."""
        object.__setattr__(self, "request_id", request_id)
        object.__setattr__(self, "messages", messages)
        object.__setattr__(self, "options", GenerationOptions.of(options, fields))


def _check(name: str, value: object, low: float, high: float) -> None:
    whole = isinstance(low, int)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        wanted = f"a whole number from {low} to {high}" if whole else f"a number from {low:g} to {high:g}"
        raise BadParameter(f"{name} is {value!r}; it must be {wanted}")
