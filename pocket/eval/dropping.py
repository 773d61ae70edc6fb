"""What dropping old screens does to answers: all kept, dropped exactly, dropped approximately (docs/sessions.md).

python -m pocket.eval.dropping BUNDLE --limit 250         # pocket: how often it points and reads right
python -m pocket.eval.dropping BUNDLE --limit 100 --kl    # how far its next tokens drift, the right answer given
python -m pocket.eval.dropping BUNDLE --random 4          # the same of any model, on noise
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.devices.planner import MemoryRequest
from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.load import load
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.decoder import Logits
from pocket.eval.case import Case, Image
from pocket.eval.metrics import score
from pocket.eval.sets import SETS

NUM_FORCED = 20
WAYS = ("kept", "exact", "approximate")
_ALSO_ASKED = Message("user", "ok")


@dataclass(frozen=True, slots=True)
class Chat:
    """What was said, how many of its images stay, and what is asked then."""

    history: tuple[Message, ...]
    num_kept: int
    question: Message
    case: Case | None = None

    def said(self, way: str) -> tuple[Message, ...]:
        """All of it, with the older images dropped that way."""
        if way == "kept":
            return (*self.history, self.question)
        return (*drop(self.history, self.num_kept, approximate=way == "approximate"), self.question)


class ForcedRunner:
    """A runner whose next tokens are given; it keeps what it would have said: log-probabilities [V] of each."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.encode = runner._tokenizer.encode
        self.forced: list[int] = []
        self.logprobs: list[NDArray[np.float64]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, steps: Sequence[Step]) -> list[Logits | None]:
        """As the runner's, with the forced token the likeliest."""
        results = self._runner.forward(steps)
        if not self.forced or results[0] is None:
            return list(results)
        row = results[0].rows[-1].astype(np.float64)
        row -= row.max()
        self.logprobs.append(row - np.log(np.exp(row).sum()))
        told = np.zeros((1, len(row)), dtype=np.float32)
        told[0, self.forced[len(self.logprobs) - 1]] = 1
        return [Logits(told)]


def ask(
    engine: Engine, messages: Sequence[Message], salt: str, max_tokens: int = 200, *, ignore_eos: bool = False
) -> Finished:
    """The answer, with nothing found that was computed under another salt. Raises the `EdgeError` that ended it."""
    *_, last = engine.generate(
        GenerationRequest("drop", tuple(messages), max_tokens=max_tokens, ignore_eos=ignore_eos, cache_salt=salt)
    )
    if isinstance(last, Failed):
        raise last.error
    assert isinstance(last, Finished)
    return last


def screens(limit: int, num_older: int, *, follow_up: bool) -> Iterator[Chat]:
    """About painted screens: a question on a new one, or a second one on the last, after `num_older` others."""
    by_screen: dict[str, list[Case]] = {}
    for case in SETS["painted"][0](limit + num_older):
        if not case.name.endswith("/pair") and case.turn.task in ("point", "read", "title"):
            by_screen.setdefault(case.name.rsplit("/", 1)[0], []).append(case)
    cases = [found for found in by_screen.values() if len(found) >= 2]
    for index in range(num_older, len(cases)):
        older = [part for found in cases[index - num_older : index] for part in _turn(found[0])]
        first, second = cases[index][:2]
        if follow_up:
            yield Chat((*older, *_turn(first)), 1, Message("user", second.turn.question), second)
        else:
            yield Chat(tuple(older), 0, _asked(first.images[0], first.turn.question), first)


def noise(count: int, num_older: int) -> Iterator[Chat]:
    """Screens of noise, and words."""
    for index in range(count):
        rng = np.random.default_rng(index)
        turns: list[Message] = []
        for number in range(num_older + 1):
            small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            screen = np.repeat(np.repeat(small, 40, axis=0), 40, axis=1)
            turns += [
                _asked(screen, f"What is on screen {number}, and where?"),
                Message("assistant", f"It is {rng.bytes(12).hex()}."),
            ]
        yield Chat(tuple(turns), 1, Message("user", "Where on this screen would you click to go on?"))


def _turn(case: Case) -> tuple[Message, Message]:
    return _asked(case.images[0], case.turn.question), Message("assistant", case.turn.answer)


def _asked(image: Image, question: str) -> Message:
    return Message("user", [ImagePart(image), TextPart(question)])


def accuracy(engine: Engine, name: str, chats: Iterator[Chat]) -> None:
    """Print how often each way is right, and what it computes."""
    right: dict[str, list[float]] = {way: [] for way in WAYS}
    computed: dict[str, list[int]] = {way: [] for way in WAYS}
    same: list[bool] = []
    for chat in chats:
        assert chat.case is not None
        salt = f"{name} {len(same)}"
        ask(engine, (*chat.history, _ALSO_ASKED), salt, 1)
        # The approximate one first, when only what was there before the drop is in the cache.
        answers = {way: ask(engine, chat.said(way), salt) for way in reversed(WAYS)}
        for way, answer in answers.items():
            values = score(chat.case, answer.text)
            right[way].append(values.get("point", values.get("read_exact", 0.0)))
            computed[way].append(answer.timings.computed_tokens)
        same.append(answers["exact"].text == answers["approximate"].text)
    print(f"{name}: {len(same)} questions, exact and approximate answer the same in {np.mean(same):.3f}")
    for way in WAYS:
        print(f"  {way}: right {np.mean(right[way]):.3f}, computed {np.mean(computed[way]):.0f} tokens", flush=True)


def drift(engine: Engine, chats: Iterator[Chat]) -> None:
    """Print KL divergences of next tokens, teacher-forced, in nats."""
    runner = engine._runner
    assert isinstance(runner, ForcedRunner)
    pairs = (("exact", "approximate"), ("kept", "approximate"), ("kept", "exact"))
    found: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
    agree: dict[tuple[str, str], list[bool]] = {pair: [] for pair in pairs}
    for index, chat in enumerate(chats):
        forced = np.random.default_rng(1000 + index).integers(32, 400, NUM_FORCED).tolist()
        if chat.case is not None:
            forced = runner.encode(chat.case.turn.answer, {}, add_special_tokens=False).tolist()
        rows: dict[str, NDArray[np.float64]] = {}
        ask(engine, (*chat.history, _ALSO_ASKED), str(index), 1)
        for way in reversed(WAYS):
            runner.forced, runner.logprobs = forced, []
            told = ask(engine, chat.said(way), str(index), len(forced), ignore_eos=True).timings
            rows[way], runner.forced = np.stack(runner.logprobs), []
            what = f"{told.computed_tokens} of {told.prompt_tokens} tokens computed"
            print(f"chat {index}, {way}: {what}, first token {told.first_token_ms:.0f} ms", flush=True)
        for pair in pairs:
            p, q = rows[pair[0]], rows[pair[1]]
            found[pair] += (np.exp(p) * (p - q)).sum(axis=1).tolist()
            agree[pair] += (p.argmax(axis=1) == q.argmax(axis=1)).tolist()
    for (p_name, q_name), values in found.items():
        same = np.mean(agree[p_name, q_name])
        print(f"KL({p_name} || {q_name}): mean {np.mean(values):.4f}, largest {max(values):.4f}; same first {same:.2f}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--limit", type=int, default=250, help="screens")
    parser.add_argument("--older", type=int, default=3, help="screens that are dropped")
    parser.add_argument("--kl", action="store_true", help="divergences in place of answers")
    parser.add_argument("--random", type=int, help="chats about noise, for a model that cannot read")
    options = parser.parse_args()
    engine = load(options.bundle, memory=MemoryRequest(context_tokens=4096, max_chats=2))
    if options.kl or options.random is not None:
        engine._runner = ForcedRunner(engine._runner)
        painted = screens(options.limit, options.older, follow_up=True)
        drift(engine, painted if options.random is None else noise(options.random, options.older))
        return
    for name, follow_up in (("second question on the last screen", True), ("question on a new screen", False)):
        accuracy(engine, name, screens(options.limit, options.older, follow_up=follow_up))


if __name__ == "__main__":
    main()
