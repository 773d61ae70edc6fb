"""Medians and ratios: the arithmetic of the table, on made-up contenders."""

from __future__ import annotations

from benchmarks.peers.contenders import Contender
from benchmarks.peers.measure import Outcome
from benchmarks.peers.report import advantages, as_json, markdown, medians


def outcome(name: str, *, is_peer: bool, **samples: list[float]) -> Outcome:
    named = {key.replace("_", " ").replace("rate", "tok/s"): values for key, values in samples.items()}
    return Outcome(Contender(name, "adapter", None, is_peer=is_peer), samples=named)


OWN = outcome("own", is_peer=False, prefill_rate=[90.0, 100.0, 300.0], load_s=[0.5], only_own_s=[1.0])
SLOW = outcome("slow", is_peer=True, prefill_rate=[20.0], load_s=[1.0])
FAST = outcome("fast", is_peer=True, prefill_rate=[50.0, 40.0], load_s=[4.0])


def test_medians_are_per_contender_and_metric() -> None:
    table = medians([OWN, SLOW, FAST])
    assert table["own"]["prefill tok/s"] == 100.0
    assert table["fast"]["prefill tok/s"] == 45.0


def test_advantage_is_over_the_best_peer_whichever_way_is_better() -> None:
    ahead = advantages([OWN, SLOW, FAST])
    assert ahead == {"own": {"prefill tok/s": 100 / 45, "load s": 2.0}}


def test_without_peers_there_is_no_ratio() -> None:
    assert advantages([OWN]) == {"own": {}}


def test_table_has_a_row_per_metric_and_says_what_is_missing() -> None:
    broken = outcome("broken", is_peer=True)
    broken.complain("could not be prepared: no wheel")
    broken.complain("could not be prepared: no wheel")
    lines = markdown([OWN, FAST, broken]).splitlines()
    assert lines[0] == "|  | own | fast | broken | own vs best peer |"
    assert "| prefill tok/s | 100 | 45.0 | - | 2.22x |" in lines
    assert "| load s | 0.50 | 4.00 | - | 8.00x |" in lines
    assert lines.index("| load s | 0.50 | 4.00 | - | 8.00x |") > lines.index("| only own s | 1.00 | - | - | - |")
    assert sum("no wheel" in line for line in lines) == 1


def test_json_holds_every_sample() -> None:
    result = as_json([OWN, FAST], {"threads": 2})
    assert result["threads"] == 2
    assert result["samples"] == {"own": OWN.samples, "fast": FAST.samples}
