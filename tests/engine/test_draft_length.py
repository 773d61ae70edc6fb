"""How much is drafted, in simulated time: little lost where nothing comes true, most of the gain where all does.

A simulated engine runs chats on machines whose runs take what a table says; what a run took is all that the code under
test is told. Adversaries know each draft before they choose the next token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge_runtime.engine.draft_length import MAX_DRAFT
from edge_runtime.engine.lookup import Lookup
from edge_runtime.engine.run_costs import MAX_ROWS, RunCosts
from edge_runtime.engine.speculation import Speculation

Cost = Callable[[int], float]
WALL = 0

MACHINES: dict[str, Cost] = {
    "2B on two cores": lambda rows: 34 + 4.1 * rows,
    "weights are all": lambda rows: 30 + 0.3 * rows,
    "computing is all": lambda rows: 30.0 * rows,
    "half and half": lambda rows: 20 + 20.0 * rows,
    "one row is special": lambda rows: 30 if rows == 1 else 55 + 2 * rows,
    "tiles of four": lambda rows: 30 + 12 * ((rows - 1) // 4) + 2 * rows,
}
WORDS = np.random.default_rng(1).integers(1, 2000, 400).tolist()


@dataclass
class Machine:
    """Simulated time of an engine, beside that of one without drafts."""

    cost: Cost
    noise: float = 0.0
    speculation: Speculation = field(default_factory=lambda: Speculation({WALL}))
    spent: float = 0.0
    plain: float = 0.0
    num_drafted: int = 0
    num_accepted: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    @property
    def speed(self) -> float:
        """As a multiple of that without drafts."""
        return self.plain / self.spent

    def forget_times(self) -> None:
        self.spent = self.plain = 0.0

    def run(self, num_rows: int) -> None:
        seconds = self.cost(num_rows)
        self.spent += seconds
        hiccup = 5.0 if self.rng.random() < self.noise / 10 else 1.0
        seconds *= hiccup * (1 + self.noise * abs(self.rng.standard_normal()))
        self.speculation.costs.took(1, num_rows, seconds / 1e3)

    def answer(self, prompt: Sequence[int], says: Callable[[list[int], list[int]], int], length: int) -> None:
        """One chat; `says(log, draft)` is the token that comes next, given what is drafted from there on."""
        drafter, log = self.speculation.drafter(), list(prompt)
        while len(log) < len(prompt) + length:
            left = len(prompt) + length - len(log) - 1
            draft = drafter.draft(np.array(log), left, 1, 1).tolist() if drafter.is_due else []
            self.run(1 + len(draft))
            for index in range(len(draft) + 1):
                log.append(says(log, draft[index:]))
                if index == len(draft) or log[-1] != draft[index]:
                    break
            drafter.learn(np.array(log))
            self.num_drafted += len(draft)
            self.num_accepted += index
        self.plain += length * self.cost(1)

    def copy(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.answer(prompt, lambda log, _: answer[len(log) - len(prompt)], len(answer))


class Adversary:
    """What is drafted never comes; where nothing is, matches go on, so that they look good."""

    def __init__(self, lures: bool) -> None:
        self.lookup = Lookup({WALL})
        self.rng = np.random.default_rng(5)
        self.lures = lures

    def __call__(self, log: list[int], draft: list[int]) -> int:
        match = self.lookup.find(np.array(log))
        expected = draft[:1] if match is None else self.lookup.draft(np.array(log), match, 1).tolist()
        if self.lures and not draft and expected:
            return expected[0]
        others = [token for token in self.rng.integers(1, 50, 2).tolist() if token not in expected + draft[:1]]
        return others[0] if others else 60


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("lures", [False, True])
@pytest.mark.parametrize("cost", MACHINES.values(), ids=MACHINES)
def test_nothing_is_lost_where_nothing_comes_true(cost: Cost, lures: bool, noise: float) -> None:
    machine, says = Machine(cost, noise), Adversary(lures)
    for _ in range(20):
        machine.answer(says.rng.integers(1, 50, 200).tolist(), says, 32)
    assert machine.num_accepted == 0
    assert machine.num_drafted > 0
    assert machine.speed >= 0.97


@pytest.mark.parametrize("cost", MACHINES.values(), ids=MACHINES)
def test_prose_costs_nothing(cost: Cost) -> None:
    machine, rng = Machine(cost, 0.1), np.random.default_rng(6)
    machine.copy(rng.integers(1, 3000, 2000).tolist(), rng.integers(1, 3000, 1000).tolist())
    assert machine.speed >= 0.99


def best_fixed(cost: Cost) -> float:
    return max((1 + k) * cost(1) / cost(1 + k) for k in range(MAX_DRAFT + 1))


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("cost", MACHINES.values(), ids=MACHINES)
def test_near_the_best_fixed_length_where_all_comes_true(cost: Cost, noise: float) -> None:
    machine = Machine(cost, noise)
    machine.copy(WORDS[:60], WORDS[:60] * 15)  # it has to get to know the machine
    assert machine.speed >= 0.98
    machine.forget_times()
    machine.copy(WORDS[:60], WORDS[:60] * 15)
    assert machine.num_accepted >= 0.98 * machine.num_drafted
    assert machine.speed >= 0.75 * best_fixed(cost)


def test_a_new_chat_starts_at_once_with_what_the_engine_has_learned() -> None:
    machine = Machine(MACHINES["2B on two cores"])
    machine.copy(WORDS[:60], WORDS[:60] * 10)
    machine.forget_times()
    machine.copy(WORDS[100:160], WORDS[100:160])
    assert machine.speed >= 0.7 * best_fixed(machine.cost)


def test_copying_after_long_prose_is_noticed_within_tokens() -> None:
    machine, rng = Machine(MACHINES["2B on two cores"]), np.random.default_rng(6)
    machine.copy(WORDS[:60], WORDS[:60] * 10)
    prose = rng.integers(1, 3000, 500).tolist()
    drafter, log, runs = machine.speculation.drafter(), WORDS[:60] + prose, 0
    for token in prose[-100:]:
        drafter.draft(np.array(log), 100, 1, 1)
        machine.run(1)
        log.append(token)
        drafter.learn(np.array(log))
    begun = len(log)
    log += WORDS[:4]
    while len(log) < begun + 40:
        draft = drafter.draft(np.array(log), 100, 1, 1).tolist()
        machine.run(1 + len(draft))
        log += WORDS[len(log) - begun : len(log) - begun + len(draft) + 1]
        drafter.learn(np.array(log))
        runs += 1
    assert runs <= 12


def test_the_same_measurements_give_the_same_drafts() -> None:
    def lengths() -> tuple[float, int]:
        machine = Machine(MACHINES["tiles of four"], noise=0.2)
        machine.copy(WORDS, WORDS[50:90] + WORDS[200:260])
        return machine.spent, machine.num_drafted

    assert lengths() == lengths()


def test_no_draft_is_longer_than_is_left() -> None:
    speculation = Speculation({WALL})
    for _ in range(20):
        speculation.costs.took(1, 1, 0.03)
    for rows in (2, 4, 8, 16):
        for _ in range(3):
            speculation.costs.took(1, rows, 0.03)
    ids = np.array([1, 2, 3, 4, 5, 6, 7, 8] * 4)
    drafted = [len(speculation.drafter().draft(ids, most, 1, 1)) for most in (0, 1, 3, 40)]
    assert drafted[:3] == [0, 1, 3]
    assert 3 < drafted[3] <= MAX_DRAFT


def test_what_the_grammar_does_not_take_is_not_drafted() -> None:
    speculation = Speculation({WALL})
    for rows in (1, 1, 1, 2, 2, 2, 4, 4, 4):
        speculation.costs.took(1, rows, 0.03)
    ids = np.array([1, 2, 3, 4, 5, 6, 7, 8] * 4)
    assert speculation.drafter().draft(ids, 9, 1, 1, fits=lambda draft: 2).tolist() == [1, 2]
    assert speculation.drafter().draft(ids, 9, 1, 1, fits=lambda draft: 0).tolist() == []


def test_chats_beside_are_considered() -> None:
    """One that drafts makes the others wait: the more there are, the shorter its drafts."""

    def length(num_chats: int) -> int:
        speculation = Speculation({WALL})
        for rows in (*range(num_chats, 17), *range(num_chats, 17), *range(num_chats, 17)):
            speculation.costs.took(num_chats, rows, MACHINES["half and half"](rows) / 1e3)
        ids = np.array([1, 2, 3, 4, 5, 6, 7, 8] * 4)
        speculation._purse.amount = 2.0
        return len(speculation.drafter().draft(ids, 16, num_chats, num_chats))

    lengths = [length(num_chats) for num_chats in (1, 2, 4)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def fed(costs: RunCosts, runs: Iterable[tuple[int, float]], num_chats: int = 1) -> list[float]:
    for rows, seconds in runs:
        costs.took(num_chats, rows, seconds)
    return costs.curve(num_chats)


def test_costs_are_those_measured_and_between_them_in_between() -> None:
    runs = [(1, 0.010), (5, 0.030)] * 4
    curve = fed(RunCosts(), runs)
    assert curve[1:6] == pytest.approx([0.010, 0.015, 0.020, 0.025, 0.030])
    assert np.all(np.diff(curve) >= 0)


def test_a_first_run_and_a_bad_moment_do_not_count() -> None:
    runs = [(1, 9.0), *[(1, 0.010)] * 3, (1, 5.0), *[(1, 0.010)] * 2]
    assert fed(RunCosts(), runs)[1] == pytest.approx(0.010)


def test_more_rows_are_never_quicker() -> None:
    costs = RunCosts()
    curve = fed(costs, [(1, 0.05)] * 3 + [(4, 0.03)] * 3)
    assert curve[1] == curve[4] == pytest.approx(0.03)


def test_what_was_long_not_seen_is_forgotten() -> None:
    costs = RunCosts()
    fed(costs, [(1, 0.01), (4, 0.025)] * 4)
    assert costs.curve(1)[4] == pytest.approx(0.025)
    fed(costs, [(1, 0.01)] * 600 + [(2, 0.01)] * 3)
    assert costs.curve(1)[4] < 0.02


def test_prompts_are_not_learned_from() -> None:
    costs = RunCosts()
    before = fed(costs, [(1, 0.01)] * 3)
    assert fed(costs, [(MAX_ROWS + 1, 3.0)] * 5) == before
    costs.took(1, 1, 3.0, has_prompt=True)
    assert costs.curve(1) == before
    assert costs.surprise == 1.0


def test_each_number_of_chats_has_its_own_costs() -> None:
    costs = RunCosts()
    fed(costs, [(4, 0.08)] * 3, num_chats=4)
    assert fed(costs, [(4, 0.02)] * 3)[4] == pytest.approx(0.02)
    assert costs.curve(4)[4] == pytest.approx(0.08)


def test_drafts_are_looked_for_seldom_where_runs_take_little_longer() -> None:
    for seconds, pause in ((1.0, 1), (0.038, 1), (0.006, 2), (0.002, 6), (0.0001, 16)):
        speculation = Speculation({WALL})
        drafter = speculation.drafter()
        looked = []
        for number in range(100):
            looked += [number] if drafter.is_due else []
            speculation.costs.took(1, 1, seconds)
            drafter.learn(np.array([number]))
        assert looked == [*range(8), *(number for number in range(8, 100) if number % pause == 0)]


def test_what_came_is_learned_once() -> None:
    """A run may have had no draft of ours: what has to come is not guessed."""
    speculation = Speculation({WALL})
    drafter, ids = speculation.drafter(), np.array([1, 2, 3, 4, 5, 1, 2])
    drafter.draft(ids, 4, 1, 1)
    drafter.learn(np.append(ids, 9))
    rate = drafter._length.rates.rate(2)
    drafter.learn(np.append(ids, [9, 3]))
    assert drafter._length.rates.rate(2) == rate < 0.35
