"""Asks a model every case and says how it did: means per metric, as Markdown and as JSON."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket.eval.case import Answer, Case
from pocket.eval.metrics import score

METRICS = {
    "point": "pointing: inside the element", "action": "actions: right kind, text and place",
    "json": "actions: valid JSON",
    "read_exact": "reading: exact", "read_cer": "reading: character error rate (lower is better)",
    "list_f1": "listing elements: F1 of kind and name", "list_place_f1": "listing elements: F1 with place",
    "names_f1": "listing names: F1", "kind": "kind", "state": "state", "change": "what changed: exact",
    "exists": "is it there: yes or no", "abstention": "not there: says so",
    "false_absent": "pointing: says it is not there though it is (lower is better)",
}  # fmt: skip
"""Every metric of `metrics.score`, in the order of the report."""
_MAX_MISTAKES = 25  # wrong answers kept per set in the JSON report


@dataclass(frozen=True, slots=True)
class Result:
    """One answered case."""

    case: str
    task: str
    question: str
    expected: str
    answer: str
    scores: dict[str, float]

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.answer.strip() == self.expected or all(
            value == (0 if name in ("read_cer", "false_absent") else 1) for name, value in self.scores.items()
        )


def evaluate(answer: Answer, cases: Iterable[Case], progress: Callable[[int], None] = lambda _: None) -> list[Result]:
    """Asks every case; `progress` is told after each how many are done."""
    results: list[Result] = []
    for case in cases:
        text = answer(case.images, case.messages)
        turn = case.turn
        results.append(Result(case.name, turn.task, turn.question, turn.answer, text, score(case, text)))
        progress(len(results))
    return results


def means(results: Iterable[Result]) -> dict[str, tuple[float, int]]:
    """Mean and number of answers of each metric that any result counts in, in the report's order."""
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.scores.items():
            values.setdefault(name, []).append(value)
    return {name: (sum(values[name]) / len(values[name]), len(values[name])) for name in METRICS if name in values}


Answered = dict[str, dict[str, list[Result]]]
"""Set name -> model name -> results, every model on the same cases."""


def markdown(answered: Answered) -> str:
    """One table per set with a column per model; the last row compares each model's answers with the first's.

    `±` is half the width of the first model's 95% interval, in points.
    """
    parts = []
    for set_name, by_model in answered.items():
        first, *_ = by_model.values()
        screens = len({result.case.rsplit("/", 1)[0] for result in first})
        lines = [f"## {set_name}: {len(first)} questions about {screens} screens", ""]
        lines += ["| | answers | ± | " + " | ".join(by_model) + " |", "|---|---:|---:" + "|---:" * len(by_model) + "|"]
        table = [means(results) for results in by_model.values()]
        for name, (mean, count) in table[0].items():
            cells = " | ".join(f"{100 * column[name][0]:.1f}%" for column in table)
            lines.append(f"| {METRICS[name]} | {count} | {100 * _margin(mean, count):.0f} | {cells} |")
        if len(by_model) > 1:
            cells = " | ".join(f"{100 * _agreement(first, results):.1f}%" for results in by_model.values())
            lines.append(f"| the same answer as {next(iter(by_model))} | {len(first)} | | {cells} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_json(answered: Answered) -> dict[str, Any]:
    """The same figures and some wrong answers, for machines and for looking into."""
    return {
        set_name: {
            model: {
                "questions": len(results),
                "metrics": {name: {"mean": mean, "answers": count} for name, (mean, count) in means(results).items()},
                "mistakes": [
                    {"case": one.case, "question": one.question, "expected": one.expected, "answer": one.answer}
                    for one in [result for result in results if not result.is_right][:_MAX_MISTAKES]
                ],
            }
            for model, results in by_model.items()
        }
        for set_name, by_model in answered.items()
    }


def write(answered: Answered, path: Path, title: str) -> None:
    """Writes `path` as Markdown (.md) or JSON (.json), and the other one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(f"# {title}\n\n{markdown(answered)}")
    path.with_suffix(".json").write_text(json.dumps(as_json(answered), indent=1, ensure_ascii=False) + "\n")


def _margin(mean: float, count: int) -> float:
    """Half of Wilson's 95% score interval of a share `mean` of `count` answers."""
    z = 1.96
    return float(z / (1 + z * z / count) * (mean * (1 - mean) / count + z * z / (4 * count * count)) ** 0.5)


def _agreement(first: list[Result], other: list[Result]) -> float:
    return sum(one.answer == two.answer for one, two in zip(first, other, strict=True)) / max(1, len(first))
