"""What one request asks for. Knows nothing of how it is served."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.errors import BadParameter
from edge_runtime.model.conversation import Message

DEFAULT_MAX_TOKENS = 1024
"""Length of an answer that nobody limited, where the context has room for so much."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The neutral value of each field switches it off.

    Order of work: penalties, temperature, top-k, top-p, min-p, draw. temperature 0 (under 1e-5) is greedy.
    The same seed and the same prompt give the same tokens, whatever else the engine does meanwhile.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value outside its range."""
        _check("temperature", self.temperature, 0.0, 100.0)
        _check_whole("top_k", self.top_k, 0, 2**31)
        _check("top_p", self.top_p, 1e-6, 1.0)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 1e-3, 100.0)
        _check("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        if self.seed is not None:
            _check_whole("seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One chat turn to answer: the whole conversation so far, and how to answer it."""

    request_id: str
    messages: tuple[Message, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    """Length of the answer, reasoning included; None: `DEFAULT_MAX_TOKENS`, or what the context leaves."""
    stop: tuple[str, ...] = ()
    enable_thinking: bool | None = None
    """Whether the model shall reason first, where its chat template leaves that open; None: as the template has it."""
    num_logprobs: int | None = None
    """None: no logprobs. N >= 0: per token, its logprob and those of the N likeliest tokens at its place."""
    stop_on_repetition: bool = False
    """End an answer that has come to repeat one short cycle of tokens exactly (`repetition.py` says how long)."""
    parse_special: bool = False
    """Whether control tokens spelled in the messages' text (`<|im_end|>`) become those tokens, as in transformers.

    By default they are plain text: what is quoted or typed never opens or closes a turn (decision 50).
    """

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a value outside its range."""
        if self.max_tokens is not None:
            _check_whole("max_tokens", self.max_tokens, 1, 2**31)
        if self.num_logprobs is not None:
            _check_whole("num_logprobs", self.num_logprobs, 0, 20)
        if self.enable_thinking is not None and not isinstance(self.enable_thinking, bool):
            raise BadParameter(f"enable_thinking is {self.enable_thinking!r}; it must be true, false or left out")
        for name in ("stop_on_repetition", "parse_special"):
            if not isinstance(getattr(self, name), bool):
                raise BadParameter(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if isinstance(self.stop, str) or len(self.stop) > 16 or not all(isinstance(s, str) and s for s in self.stop):
            raise BadParameter("stop takes a list of up to 16 strings, none of them empty")


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BadParameter(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}")


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadParameter(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
