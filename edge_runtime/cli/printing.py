"""An answer on the terminal, or as JSON. Knows not where it comes from."""

from __future__ import annotations

import sys
from typing import Protocol

import msgspec
import typer

from edge_runtime.devices.memory import MemoryPlan, format_bytes
from edge_runtime.engine.events import Delta, Finished, Timings, TokenLogprob
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS

_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""A screenshot can talk a model into writing escape sequences; they must not reach a terminal."""


class Printer(Protocol):
    """Shows the deltas of one answer and then its end."""

    def show(self, event: Delta | Finished) -> None:
        """Show the next piece."""


class AnswerPrinter:
    """Text as it comes, reasoning dimmed, and a line of timings (on stderr, so that a file gets the answer only)."""

    def __init__(self, is_terminal: bool, quiet: bool = False, max_tokens: int | None = None) -> None:
        """`max_tokens` as it was asked for: an answer that is cut off sooner has filled the context."""
        self._channel: str | None = None
        self._is_terminal = is_terminal
        self._quiet = quiet
        self._max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens

    def show(self, event: Delta | Finished) -> None:
        """Print a delta; end the line and add the timings after the last one."""
        if isinstance(event, Finished):
            typer.echo()
            if not self._quiet:
                if (reason := describe_ending(event, self._max_tokens)) is not None:
                    print_remark(reason)
                print_remark(describe_timings(event.timings))
            return
        if self._channel == "reasoning" and event.channel == "answer":
            typer.echo("\n")
        if event.text:
            self._channel = event.channel
            text = event.text.translate(_CONTROL) if self._is_terminal else event.text
            typer.secho(text, dim=event.channel == "reasoning", nl=False)
            sys.stdout.flush()


class JsonPrinter:
    """One object, when the answer is complete; it has `logprobs` where they were asked for."""

    def __init__(self) -> None:
        self._logprobs: list[TokenLogprob] | None = None

    def show(self, event: Delta | Finished) -> None:
        """Keep the log-probabilities of a delta; print the answer's end."""
        if isinstance(event, Delta):
            if event.logprobs is not None:
                self._logprobs = [*(self._logprobs or ()), *event.logprobs]
            return
        answer = {
            "text": event.text,
            "reasoning": event.reasoning,
            "token_ids": event.token_ids,
            "prompt_tokens": event.timings.prompt_tokens,
            "finish_reason": event.finish_reason,
            "thought_end": event.thought_end,
            "thought_repeats": event.thought_repeats,
            "timings": event.timings,
        }
        if self._logprobs is not None:
            answer["logprobs"] = self._logprobs
        typer.echo(msgspec.json.encode(answer).decode())


def print_plan(plan: MemoryPlan) -> None:
    """The memory plan in one dim line on stderr; `edge-runtime serve` prints it as a table."""
    *parts, total, budget = plan.rows()
    shares = ", ".join(f"{what} {size}" for what, size, _ in parts)
    print_remark(
        f"memory {total[1]} of {budget[1]} at most, about {format_bytes(plan.loaded_bytes)} once loaded: {shares} | "
        f"context {plan.context_tokens:,} tokens, images up to {plan.max_pixels:,} pixels"
    )


def print_remark(text: str) -> None:
    """One dim line on stderr."""
    typer.secho(text, dim=True, err=True)


def describe_ending(ended: Finished, max_tokens: int) -> str | None:
    """Why an answer is not as long as it would be; None where the model itself ended it."""
    if ended.finish_reason == "repetition":
        return "the answer only repeated itself and was ended; --no-stop-on-repetition lets it go on"
    if ended.finish_reason != "length":
        return None
    count = len(ended.token_ids)
    if count < max_tokens:
        return f"the answer was cut off after {count:,} tokens: the context is full; ask for less, or in parts"
    return f"the answer was cut off after {count:,} tokens; --max-tokens N allows for more"


def describe_timings(timings: Timings) -> str:
    """One line for people; what took no time is left out."""
    parts = [f"prompt {timings.prompt_tokens:,} tokens"]
    computed = timings.computed_tokens if timings.cached_tokens else 0
    counts = ((timings.image_tokens, "of images"), (timings.cached_tokens, "from the cache"), (computed, "computed"))
    if notes := [f"{count:,} {what}" for count, what in counts if count]:
        parts[0] += f" ({', '.join(notes)})"
    stages = ("queue", "decode_image", "resize", "vision", "prefill")
    took = ((stage.replace("_", " "), getattr(timings, f"{stage}_ms")) for stage in stages)
    parts += [f"{stage} {_duration(ms)}" for stage, ms in took if ms >= 0.5]
    parts.append(f"first token {_duration(timings.first_token_ms)}")
    tokens = f"{timings.output_tokens:,} tokens"
    # The first token is prefill's; decode makes the others.
    if timings.decode_ms > 0 and timings.output_tokens > 1:
        tokens += f" at {(timings.output_tokens - 1) / timings.decode_ms * 1000:.1f}/s"
    return " | ".join([*parts, tokens, f"total {_duration(timings.total_ms)}"])


def _duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"
