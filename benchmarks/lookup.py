"""`python -m benchmarks.lookup BUNDLE`: what drafts by lookup bring in agents' loops, and cost where they are in vain.

Each turn of a loop is answered with drafts and without, in turn, by one engine; what counts is the time from the first
token to the last. A bundle of random weights says nothing sensible: so the answers of `agent_transcripts.py` are what
it "draws". It computes all the same, draws, and then the transcript's token is taken, so that what is accepted is
what would be in a real loop. Three loops are of this kind, and in one of them no draft ever comes true. Pocket also
answers by itself, about its own held-out screens. A table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.agent_transcripts import Rows, qwen_tokens, tokens
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.bundle_runner import BundleRunner
from edge_runtime.engine.chat import Chat
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.lookup import Lookup
from edge_runtime.engine.model_runner import ModelRunner
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.sampling import Sampler
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart

CONTRARY = "nothing comes true"


@dataclass(frozen=True, slots=True)
class Question:
    """One turn: its prompt, and the answer where it is given."""

    messages: tuple[Message, ...]
    prompt: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()


@dataclass(slots=True)
class Result:
    """Of one loop: sums over its turns, per repeat."""

    plain_ms: list[float] = field(default_factory=list)
    drafted_ms: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def speed_up(self) -> float:
        """Tokens a second with drafts, over those without: the median repeat."""
        return median(plain / drafted for plain, drafted in zip(self.plain_ms, self.drafted_ms, strict=True))

    @property
    def tokens_per_run(self) -> float:
        """Behind the first token of each answer, which the prompt's last run gives."""
        return self.num_tokens / (self.num_tokens - self.num_accepted)

    def facts(self) -> dict[str, float]:
        """For the JSON line."""
        return {
            "speed_up": self.speed_up,
            "tokens_per_run": self.tokens_per_run,
            "tokens": self.num_tokens,
            "drafted": self.num_drafted,
            "accepted": self.num_accepted,
            "plain_ms_per_token": median(self.plain_ms) * len(self.plain_ms) / self.num_tokens,
        }


class Given(Sampler):
    """Draws as ever, and takes the given answer's next token for it."""

    __slots__ = ("_left",)

    def __init__(self, chat: Chat, answer: Sequence[int]) -> None:
        super().__init__(chat.request.options, chat.log.input_ids)
        self._left = iter(answer)

    def draw(self, logits: NDArray[np.float32]) -> int:
        """As `Sampler.draw`."""
        super().draw(logits)
        return next(self._left)


def main() -> None:
    """Ask all loops, and tell."""
    arguments = _parse_arguments()
    memory = MemoryRequest(max_chats=1, context_tokens=arguments.context, kv_dtype=arguments.kv_dtype)
    planned = PlannedBundle.open(arguments.bundle, "auto", memory)
    engine = planned.load()
    runner = engine._runner
    assert isinstance(runner, BundleRunner)
    results = {}
    for name in arguments.loops.split(","):
        if name == "own screens":
            questions = list(own_screens(arguments.screens))
        else:
            rows = rows_of(runner, name, planned.bundle.manifest.architecture.text.vocab_size)
            questions = list(given(rows, arguments.before))
        results[name] = measure(engine, questions, arguments.repeats)
        sys.stderr.write(f"{name}: {results[name].speed_up:.2f}\n")
    sys.stdout.write(f"| {planned.bundle.manifest.name} | tokens | drafted | accepted | tokens a run | speed-up |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|---:|\n")
    for name, one in results.items():
        counts = f"{one.num_tokens} | {one.num_drafted} | {one.num_accepted}"
        sys.stdout.write(f"| {name} | {counts} | {one.tokens_per_run:.2f} | {one.speed_up:.2f} |\n")
    facts = {
        "bundle": planned.bundle.manifest.name,
        "flavour": planned.bundle.manifest.flavour,
        "kv_dtype": planned.plan.kv_dtype,
        "load_average": os.getloadavg()[0],
        **{name: one.facts() for name, one in results.items()},
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def measure(engine: Engine, questions: Sequence[Question], repeats: int) -> Result:
    """Each question with drafts and without; who is first changes."""
    result = Result()
    for repeat in range(-1, repeats):  # the first round does not count: it fills the cache with the prompts
        spent = {True: 0.0, False: 0.0}
        for number, question in enumerate(questions):
            answers = []
            for speculation in (True, False) if (number + repeat) % 2 else (False, True):
                done = ask(engine, question, speculation)
                answers.append(done.token_ids)
                spent[speculation] += done.timings.decode_ms
                if speculation and repeat >= 0:
                    result.num_tokens += len(done.token_ids) - 1
                    result.num_drafted += done.timings.drafted_tokens
                    result.num_accepted += done.timings.accepted_tokens
            if engine._settings.speculates:
                assert answers[0] == answers[1], "drafts have changed an answer"
        if repeat >= 0:
            result.plain_ms.append(spent[False])
            result.drafted_ms.append(spent[True])
    return result


def ask(engine: Engine, question: Question, speculation: bool) -> Finished:
    """One answer."""
    limit = len(question.answer) or 300
    request = GenerationRequest(
        "lookup", question.messages, max_tokens=limit, speculation=speculation, ignore_eos=bool(question.answer)
    )
    with given_tokens(engine._runner, question):
        chat = engine.prepare(request, CancelToken())
        if question.answer:
            chat._sampler = Given(chat, question.answer)
        engine.add(chat)
        return ended(engine)


def ended(engine: Engine) -> Finished:
    """What the only chat of `engine` ends with."""
    last = None
    while engine.has_work:
        for last in engine.step():
            if isinstance(last, Failed):
                raise last.error
    assert isinstance(last, Finished)
    return last


@contextmanager
def given_tokens(runner: ModelRunner, question: Question) -> Iterator[None]:
    """Where tokens are given, `runner` has them for a prompt, and no text for those that it does not know."""
    ids = np.array(question.prompt, dtype=np.int64)

    def prepare(*_: object) -> TokenLog:
        return TokenLog(ids, positions=(np.tile(np.arange(len(ids)), (3, 1)), 0), starts_in_reasoning=False)

    stand_ins = {"prepare": prepare, "detokenize": lambda *_: b"", "remember": lambda *_: None} if len(ids) else {}
    for name, one in stand_ins.items():
        setattr(runner, name, one)
    try:
        yield
    finally:
        for name in stand_ins:
            delattr(runner, name)


def given(rows: Rows, num_before: int) -> Iterator[Question]:
    """The turns of a loop, each behind all that was said; `num_before` tokens before that stand for a screenshot."""
    history = np.random.default_rng(1).integers(300, 400, num_before).tolist() + rows[0]
    for question, answer in zip(rows[1::2], rows[2::2], strict=True):
        history = history + question
        yield Question((Message("user", (TextPart("given"),)),), tuple(history), tuple(answer))
        history = history + answer


def rows_of(runner: BundleRunner, name: str, vocab_size: int) -> Rows:
    """The tokens of a loop: Qwen's, where the bundle has so many."""
    if name == CONTRARY:
        return contrary(runner)
    rows = qwen_tokens(name)
    if max(map(max, rows)) < vocab_size:
        return rows
    return tokens(name, lambda text: runner._tokenizer.encode(text, add_special_tokens=False).tolist())


def contrary(runner: BundleRunner, num_turns: int = 12, length: int = 64) -> Rows:
    """Of a dozen words, so that what was said last was nearly always said before; but never what followed it there."""
    rng = np.random.default_rng(2)
    lookup = Lookup(runner.placeholder_ids | runner.eos_token_ids)
    rows = [rng.integers(300, 312, 200).tolist()]
    for _ in range(num_turns):
        rows.append(rng.integers(300, 312, 20).tolist())
        answer: list[int] = []
        while len(answer) < length:
            ids = np.array([*(token for row in rows for token in row), *answer])
            match = lookup.find(ids)
            expected = [] if match is None else lookup.draft(ids, match, 1).tolist()
            token = int(rng.integers(300, 312))
            if token not in expected:
                answer.append(token)
        rows.append(answer)
    return rows


def own_screens(num_screens: int) -> Iterator[Question]:
    """Pocket's held-out questions, those about one screen in one chat, which has the right answers to those before."""
    from pocket.eval.sets import painted  # noqa: PLC0415 - needs the painter's fonts

    history: tuple[Message, ...] = ()
    shown = ""
    for case in painted(num_screens):
        screen, _, kind = case.name.rpartition("/")
        if kind == "pair":
            continue
        text = TextPart(case.turn.question)
        parts = (text,) if screen == shown else (ImagePart(case.images[0]), text)
        history = (*(history if screen == shown else ()), Message("user", parts))
        yield Question(history)
        history, shown = (*history, Message("assistant", (TextPart(case.turn.answer),))), screen


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--loops", default=f"tool calls,prose,{CONTRARY}", help="also: own screens (pocket)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=int, default=1000, help="tokens that stand for a screenshot")
    parser.add_argument("--screens", type=int, default=12)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--kv-dtype", default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
