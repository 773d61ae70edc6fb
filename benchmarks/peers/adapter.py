"""What a contender must be able to do. Standard library only: this file is imported in every contender's environment.

An adapter is a module of `benchmarks.peers.adapters` with these functions:

    prepare(checkpoint: Path, out: Path, options: Mapping[str, str]) -> dict[str, str]
        Turn the Hugging Face checkpoint into what the contender loads, in the empty folder `out`; return facts for the
        report.
    load(model: Path, settings: RunSettings) -> Model
        Load what `prepare` wrote, ready to answer. Imports belong inside, so that they count as load time.

and, to take part in the agent's loop (`loop.py`), a third:

    load_chat(model: Path, settings: RunSettings) -> ChatModel
        The same, set up as its users run it: whatever it keeps of earlier turns is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


class CannotRun(Exception):
    """The contender has no way to do this case; the message says why."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What all contenders are given alike."""

    num_threads: int
    max_context: int
    """Tokens of the longest prompt plus answer."""
    log: Path
    """Where a child process of the contender may write its output."""


@dataclass(frozen=True, slots=True)
class TextResult:
    """A prompt of digits (one token each, in Qwen's tokenizer and in ours) and its greedy answer."""

    prompt_tokens: int
    prefill_s: float
    """Until the first token of the answer."""
    decode_tokens: int
    """Tokens after the first."""
    decode_s: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """A question about an image, up to the first token of the answer."""

    prompt_tokens: int
    """Image tokens included."""
    first_token_s: float
    """From the image file to the first token: decoding, resizing, vision tower, prefill."""
    vision_s: float
    """The part of it that the contender itself reports for the image."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a chat: pictures, then text."""

    role: str
    text: str
    images: tuple[str, ...] = ()
    """PNG files."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A turn of an agent's loop. None: the contender does not tell."""

    first_token_s: float
    """Seen by the client: the whole time, less what came after the first token by the contender's own account."""
    total_s: float
    prompt_tokens: int
    output_tokens: int
    text: str
    computed_tokens: int | None = None
    """Of the prompt; the others were found."""
    vision_s: float | None = None
    sent_bytes: int | None = None
    """From the client to the contender."""


Mode = Literal["history", "forgetful", "session"]
"""The whole history every turn; the same, as if nothing had been asked before; or a conversation that the contender
keeps, which is sent what is new: no screen that has not changed (and has its own answers in it, whatever the history
says)."""


class ChatModel(Protocol):
    """A loaded contender that is asked turn after turn of one chat."""

    def run_turn(self, history: Sequence[Said], max_tokens: int, *, ignore_eos: bool, mode: Mode) -> TurnResult:
        """Answer the last message. A history as it was the turn before is that turn again. Raises `CannotRun`."""

    def process_ids(self) -> Sequence[int]:
        """The processes whose memory counts."""

    def close(self) -> None:
        """Stop child processes."""


class Model(Protocol):
    """A loaded contender. Used by one thread; every prompt differs from all before, so that no cache helps."""

    def run_text(self, prompt: str, max_tokens: int) -> TextResult:
        """Answer `prompt` with exactly `max_tokens` tokens where the contender can be told to."""

    def run_image(self, image: Path, prompt: str) -> ImageResult:
        """Give the first token of the answer to `prompt` about the PNG file `image`. Raises `CannotRun`."""

    def process_ids(self) -> Sequence[int]:
        """The processes whose memory counts."""

    def close(self) -> None:
        """Stop child processes."""
