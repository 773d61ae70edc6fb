"""Medians, ratios, a table and one JSON line. Knows the metrics' names, nothing of who took part."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.peers.measure import Outcome


def higher_is_better(metric: str) -> bool:
    """Rates are; seconds and bytes are not."""
    return metric.endswith("tok/s")


def metrics_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Every metric somebody has, in the order in which it first came up; load and memory last."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.samples))
    return sorted(names, key=lambda name: name.startswith(("load", "peak")))


def medians(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Contender -> metric -> median over the rounds."""
    return {
        outcome.contender.name: {metric: median(values) for metric, values in outcome.samples.items()}
        for outcome in outcomes
    }


def advantages(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Own contender -> metric -> how many times better than the best peer; over 1 is ahead."""
    table = medians(outcomes)
    peers = [outcome.contender.name for outcome in outcomes if outcome.contender.is_peer]
    found: dict[str, dict[str, float]] = {}
    for name in (outcome.contender.name for outcome in outcomes if not outcome.contender.is_peer):
        found[name] = {}
        for metric, own in table[name].items():
            rivals = [table[peer][metric] for peer in peers if metric in table[peer]]
            if rivals and own > 0:
                better = higher_is_better(metric)
                found[name][metric] = own / max(rivals) if better else min(rivals) / own
    return found


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table: a row per metric, a column per contender, then how far our own are ahead of the best peer."""
    table, ahead = medians(outcomes), advantages(outcomes)
    names = [outcome.contender.name for outcome in outcomes]
    head = ["", *names, *(f"{name} vs best peer" for name in ahead)]
    rows = [head, ["---", *("---:" for _ in head[1:])]]
    for metric in metrics_of(outcomes):
        cells = [_number(table[name].get(metric)) for name in names]
        cells += [_ratio(ratios.get(metric)) for ratios in ahead.values()]
        rows.append([metric, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [""] + [f"- {o.contender.name}: {', '.join(f'{k} {v}' for k, v in o.facts.items())}" for o in outcomes]
    lines += [f"- {o.contender.name}: **missing** {trouble}" for o in outcomes for trouble in o.troubles]
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], facts: dict[str, object]) -> dict[str, object]:
    """Everything measured, for the one JSON line."""
    return {
        **facts,
        "medians": medians(outcomes),
        "advantages": advantages(outcomes),
        "samples": {outcome.contender.name: outcome.samples for outcome in outcomes},
        "facts": {outcome.contender.name: outcome.facts for outcome in outcomes},
        "troubles": {outcome.contender.name: outcome.troubles for outcome in outcomes if outcome.troubles},
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
