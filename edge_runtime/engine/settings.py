"""How much the engine takes on at once. Filled from a device profile; knows nothing of profiles."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.errors import BadParameter


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits of one engine, in chats and tokens."""

    prefill_chunk: int = 512
    """Prompt tokens per step, all of one chat: the longest wait for a cancel, or for a next token (`shared_chunk`)."""
    shared_chunk: int | None = None
    """So many, if fewer, while other chats decode and wait for them; None where a prompt's cuts change its numbers."""
    speculates: bool = False
    """Whether tokens are guessed for requests that do not say; not where the cut of a run changes its numbers."""
    max_running: int = 8
    """Chats that hold a part of the KV cache at the same time."""
    max_waiting: int = 64
    """Chats that may wait when `max_running` run; one more is `Overloaded`."""

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a limit that would never let a chat run."""
        for name, low in (("prefill_chunk", 1), ("shared_chunk", 1), ("max_running", 1), ("max_waiting", 0)):
            value = getattr(self, name)
            if name == "shared_chunk" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise BadParameter(f"{name} is {value!r}; it must be a whole number, {low} or more")
