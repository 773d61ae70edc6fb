"""Sampling against exact numbers, and against the naive sort-everything definition at a real vocabulary size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.engine.request import SamplingParams
from edge_runtime.engine.sampling import (
    Sampler,
    check_finite,
    distribution,
    draw_index,
    largest,
    penalize,
    token_logprob,
    top_p_indices,
)
from edge_runtime.errors import InternalError

NO_PROMPT = np.array([], dtype=np.int64)


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float64)).astype(np.float32)


def probabilities(logits: np.ndarray, **params: float) -> dict[int, float]:
    ids, weights = distribution(logits, SamplingParams(**{"temperature": 1.0, **params}))
    return dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))


def test_greedy_takes_the_likeliest_and_the_lowest_id_of_a_tie():
    sampler = Sampler(SamplingParams(), NO_PROMPT)
    assert sampler.draw(np.array([0, 3, 1, 3], dtype=np.float32)) == 1


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_tightest_truncation_is_greedy(params: dict[str, float]):
    logits = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=5.0, seed=1, **params), NO_PROMPT)
    assert {sampler.draw(logits) for _ in range(20)} == {int(np.argmax(logits))}


def test_top_k_1_takes_the_lowest_id_of_a_tie():
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=1, seed=1), NO_PROMPT)
    assert {sampler.draw(np.zeros(300, dtype=np.float32)) for _ in range(20)} == {0}


def test_temperature_divides_the_logits():
    assert probabilities(logits_of(0.8, 0.2), temperature=0.5) == pytest.approx({0: 16 / 17, 1: 1 / 17})
    assert probabilities(logits_of(0.8, 0.2), temperature=2.0) == pytest.approx({0: 2 / 3, 1: 1 / 3})


def test_a_tiny_temperature_is_greedy_without_overflow():
    logits = np.array([3e38, -3e38, 1], dtype=np.float32)
    for temperature in (1e-5, 1e-6, 1e-300):
        with np.errstate(invalid="raise"):
            assert Sampler(SamplingParams(temperature=temperature, seed=0), NO_PROMPT).draw(logits) == 0


def test_top_k_keeps_the_k_likeliest():
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert probabilities(logits, top_k=2) == pytest.approx({1: 4 / 7, 3: 3 / 7})
    assert probabilities(logits, top_k=99) == pytest.approx({0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3})


def test_top_p_keeps_the_fewest_that_reach_p():
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert probabilities(logits, top_p=0.39) == pytest.approx({1: 1.0})
    assert probabilities(logits, top_p=0.41) == pytest.approx({1: 4 / 7, 3: 3 / 7})
    assert probabilities(logits, top_p=0.71) == pytest.approx({1: 4 / 9, 3: 3 / 9, 2: 2 / 9})


def test_top_p_counts_what_top_k_left():
    # 0.4 / 0.7 = 0.571 of the two that top-k leaves, so 0.5 is reached by one token and 0.6 needs both.
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert probabilities(logits, top_k=2, top_p=0.5) == pytest.approx({1: 1.0})
    assert probabilities(logits, top_k=2, top_p=0.6) == pytest.approx({1: 4 / 7, 3: 3 / 7})


def test_min_p_is_relative_to_the_likeliest():
    logits = logits_of(0.1, 0.4, 0.19, 0.31)
    assert probabilities(logits, min_p=0.5) == pytest.approx({1: 0.4 / 0.71, 3: 0.31 / 0.71})


def test_masked_tokens_are_never_drawn():
    logits = np.array([-np.inf, 0, -np.inf, 0], dtype=np.float32)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3), NO_PROMPT)
    assert {sampler.draw(logits) for _ in range(50)} == {1, 3}


def test_repetition_penalty_counts_prompt_and_output_once():
    logits = np.array([2, -2, 2, -2, 1], dtype=np.float32)
    params = SamplingParams(repetition_penalty=2.0)
    got = penalize(logits, params, np.array([0, 1]), {1: 3, 2: 1})
    assert got.tolist() == [1, -4, 1, -2, 1]
    assert logits.tolist() == [2, -2, 2, -2, 1], "the caller's logits were changed"


def test_presence_and_frequency_count_the_output_alone():
    logits = np.zeros(4, dtype=np.float32)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    assert penalize(logits, params, np.array([0]), {1: 1, 2: 4}).tolist() == [0, -0.75, -1.5, 0]


def test_the_sampler_remembers_what_it_drew():
    sampler = Sampler(SamplingParams(frequency_penalty=1.0), NO_PROMPT)
    logits = np.array([2.5, 2, 0], dtype=np.float32)
    assert [sampler.draw(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), np.array([0, 0]))
    assert [sampler.draw(logits) for _ in range(3)] == [1, 0, 0]


def test_repetition_penalty_equals_the_definition_at_full_size():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=151_936).astype(np.float32)
    prompt = rng.integers(0, 151_936, 4000)
    expected = logits.copy()
    for token in {*prompt.tolist(), 7}:
        expected[token] = (
            expected[token] / np.float32(1.3) if expected[token] > 0 else expected[token] * np.float32(1.3)
        )
    got = penalize(logits, SamplingParams(repetition_penalty=1.3), np.unique(prompt), {7: 2})
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("params", [{"top_k": 20, "top_p": 0.8}, {"top_p": 0.95}, {"top_k": 50, "min_p": 0.1}, {}])
def test_truncation_equals_sorting_everything(spread: float, params: dict[str, float]):
    logits = (np.random.default_rng(2).normal(size=20_000) * spread).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    if "top_k" in params:
        order = order[: params["top_k"]]
    probs = np.exp(logits[order].astype(np.float64))
    if "top_p" in params:
        num_kept = int(np.argmax(np.cumsum(probs / probs.sum()) >= params["top_p"])) + 1
        order, probs = order[:num_kept], probs[:num_kept]
    if "min_p" in params:
        order, probs = order[probs >= params["min_p"] * probs[0]], probs[probs >= params["min_p"] * probs[0]]
    got = probabilities(logits, **params)
    assert len(got) == pytest.approx(len(order), abs=len(order) * 1e-4)
    expected = dict(zip(order.tolist(), probs / probs.sum(), strict=True))
    shared = expected.keys() & got.keys()
    assert len(shared) == min(len(got), len(expected))
    assert [got[i] for i in shared] == pytest.approx([expected[i] for i in shared], rel=1e-3)


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize("count", [1, 2, 5, 20, 64, 5000])
def test_largest_equals_a_stable_sort(size: int, count: int):
    rng = np.random.default_rng(size * count)
    for values in (rng.normal(size=size), rng.integers(0, 4, size).astype(float), np.zeros(size)):
        assert largest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


@pytest.mark.parametrize("top_k", [2_000, 4_096, 4_097, 15_000, 19_999, 20_000, 10**6])
@pytest.mark.parametrize("values", ["normal", "few", "equal"])
def test_a_large_top_k_keeps_what_a_stable_sort_keeps(top_k: int, values: str):
    rng = np.random.default_rng(6)
    logits = {"normal": rng.normal(size=20_000), "few": rng.integers(0, 4, 20_000), "equal": np.zeros(20_000)}[values]
    logits = logits.astype(np.float32)
    wanted = np.argsort(-logits, kind="stable")[:top_k]
    ids, weights = distribution(logits, SamplingParams(temperature=1.0, top_k=top_k))
    assert sorted(ids.tolist()) == sorted(wanted.tolist())
    np.testing.assert_allclose(weights, np.exp(logits[ids] - logits.max()), rtol=1e-5)


def test_a_nucleus_of_equal_weights_takes_the_first_of_them():
    weights = np.full(5000, 0.25, dtype=np.float32)
    weights[4000:] = 0.125
    assert top_p_indices(weights, 0.5).tolist() == list(range(2250))
    weights[:2000] = 0.0
    assert top_p_indices(weights, 1.0).tolist() == list(range(2000, 5000))


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.999_999])
def test_a_nucleus_of_many_tokens_is_that_of_a_full_sort(spread: float, top_p: float):
    weights = np.exp(spread * np.random.default_rng(1).normal(size=20_000)).astype(np.float32)
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order].astype(np.float64))
    wanted = order[: int(np.searchsorted(reached, top_p * reached[-1])) + 1]
    found = top_p_indices(weights, top_p)
    assert len(wanted) > 2048
    assert len(set(wanted.tolist()) ^ set(found.tolist())) <= 1  # sums in another order round differently


def test_a_wide_nucleus_may_be_all_there_is():
    weights = np.ones(5000, dtype=np.float32)
    assert top_p_indices(weights, 1.0).tolist() == list(range(5000))


def test_a_draw_among_many_never_lands_on_weight_zero():
    weights = np.zeros(3000, dtype=np.float32)
    weights[[3, 700, 1500]] = 1, 2, 1

    class Fixed:
        def __init__(self, value: float) -> None:
            self.value = value

        def random(self) -> float:
            return self.value

    drawn = {value: draw_index(weights, Fixed(value)) for value in (0.0, 0.249, 0.26, 0.74, 0.76, 1 - 2**-53)}
    assert drawn == {0.0: 3, 0.249: 3, 0.26: 700, 0.74: 700, 0.76: 1500, 1 - 2**-53: 1500}


def test_draws_follow_the_weights():
    rng = np.random.default_rng(4)
    counts = np.bincount([draw_index(np.array([1, 0, 3], dtype=np.float32), rng) for _ in range(4000)], minlength=3)
    assert counts[1] == 0
    # Binomial(4000, 0.25) has a standard deviation of 27; the seed is fixed, so this cannot flake.
    assert abs(counts[0] - 1000) < 120


def test_the_seed_alone_decides_the_draws():
    logits = np.random.default_rng(5).normal(size=1000).astype(np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), NO_PROMPT)
        return [sampler.draw(logits) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float):
    logits = np.zeros(100, dtype=np.float32)
    logits[42] = bad
    with pytest.raises(InternalError, match="token 42"):
        check_finite(logits)


def test_logits_that_are_all_masked_are_refused():
    with pytest.raises(InternalError, match="-inf"):
        check_finite(np.full(10, -np.inf, dtype=np.float32))


def test_logprobs_are_those_of_the_softmax():
    got = token_logprob(logits_of(0.1, 0.4, 0.2, 0.3), 2, 3)
    assert got.token_id == 2
    assert got.logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token for token, _ in got.top] == [1, 3, 2]
    assert [logprob for _, logprob in got.top] == pytest.approx([math.log(p) for p in (0.4, 0.3, 0.2)], abs=1e-6)
    assert token_logprob(logits_of(0.5, 0.5), 0, 0).top == ()


def test_logprobs_survive_large_logits():
    got = token_logprob(np.array([1e4, 1e4, -1e4], dtype=np.float32), 0, 1)
    assert got.logprob == pytest.approx(math.log(0.5))
    assert got.top == ((0, got.logprob),)
