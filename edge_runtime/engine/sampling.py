"""From logits to the next token: pure functions on `logits`, float32 [V], and one small owner of their state.

Order of work: penalties, temperature, top-k, top-p, min-p, draw. Wherever tokens tie, the lower id comes first, so
top_k = 1 is greedy. Knows nothing of chats, text or time.

V is 151,936 for Qwen3-VL: greedy without penalties is one argmax, penalties touch only the tokens they concern, and
nothing sorts all V, however flat the distribution is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.events import TokenLogprob
from edge_runtime.engine.request import SamplingParams
from edge_runtime.errors import InternalError

NUM_CANDIDATES = 64
"""Tokens that `rescore` always scores again: greedy decoding, log-probabilities and usual sampling see no others. A
tenth of a millisecond a token."""
MAX_CANDIDATES = 1024
"""Tokens that it scores again at most, for a top-k that wants more: some two milliseconds a token."""
_HEAD = 1024
"""Tokens that nearly always hold top_p of the probability."""
_SORTED = 4096
"""Tokens that top-k hands on likeliest first; more of them would cost more to sort than to draw from."""
_GROUP = 64
"""Values per group in the search for the largest."""
_BLOCK = 512
"""Weights that are summed before any of them is looked at, in a draw."""
_GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: nothing but the likeliest token has a chance, and float32 would overflow."""

Score = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]
"""Logits [n] of token ids [n] after a final hidden state [D]."""


class Sampler:
    """Draws the tokens of one chat: owns its random generator and what its penalties remember."""

    __slots__ = ("_output_counts", "_params", "_prompt_ids", "_rng")

    def __init__(self, params: SamplingParams, prompt_ids: NDArray[np.int64]) -> None:
        """`prompt_ids` [T]: the repetition penalty counts the prompt as said already."""
        self._params = params
        self._rng = np.random.default_rng(params.seed)
        self._prompt_ids = np.unique(prompt_ids) if params.repetition_penalty != 1.0 else prompt_ids[:0]
        self._output_counts: dict[int, int] = {}

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token from `logits` [V] and remember it. Raises `InternalError` for NaN or inf."""
        check_finite(logits)
        params = self._params
        if params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            logits = penalize(logits, params, self._prompt_ids, self._output_counts)
        if params.temperature < _GREEDY_BELOW:
            token_id = int(np.argmax(logits))
        else:
            ids, weights = distribution(logits, params)
            token_id = int(ids[draw_index(weights, self._rng)])
        self.note(token_id)
        return token_id

    def note(self, token_id: int) -> None:
        """Remember a token of the answer that was not drawn."""
        self._output_counts[token_id] = self._output_counts.get(token_id, 0) + 1


def rescore(logits: NDArray[np.float32], hidden: NDArray[np.float32], num_candidates: int, score: Score) -> None:
    """Replace the `num_candidates` largest of `logits` [V] by finer ones, in place, given the final hidden state [D].

    Never fewer than `NUM_CANDIDATES`, never more than `MAX_CANDIDATES`; the others keep the head's own scores, and what
    is masked (-inf) stays so. Halves what a step reads of an int4 head, and keeps int8 accuracy where it counts
    (decision 32).
    """
    ids = largest(logits, min(max(num_candidates, NUM_CANDIDATES), MAX_CANDIDATES))
    ids = ids[logits[ids] > -np.inf]
    logits[ids] = score(ids, hidden)


def check_finite(logits: NDArray[np.float32]) -> None:
    """Raise `InternalError` unless the largest of `logits` [V] is a number; single tokens may be -inf."""
    # argmax stops at the first NaN, so one look at the winner sees NaN, +inf, and a row of nothing but -inf.
    best = int(np.argmax(logits))
    if not np.isfinite(logits[best]):
        raise InternalError(
            f"the model gave the logit {logits[best]} for token {best}: a graph or an execution provider computes "
            "wrongly; run `edge-export verify` on the bundle, or use another provider"
        )


def penalize(
    logits: NDArray[np.float32], params: SamplingParams, prompt_ids: NDArray[np.int64], output_counts: dict[int, int]
) -> NDArray[np.float32]:
    """A copy of `logits` [V] with the penalties applied; `output_counts` says how often each token was drawn.

    Repetition: positive logits are divided, negative ones multiplied, once per token of prompt or output (Keskar et
    al. 2019; transformers `RepetitionPenaltyLogitsProcessor`). Then, for tokens of the output alone,
    logit - count * frequency - presence (OpenAI API reference; vLLM `apply_penalties`).
    """
    logits = logits.copy()
    output_ids = np.fromiter(output_counts.keys(), dtype=np.int64, count=len(output_counts))
    if params.repetition_penalty != 1.0:
        seen = np.concatenate((prompt_ids, output_ids))
        penalty = np.float32(params.repetition_penalty)
        values = logits[seen]  # gathered once, so a token in both lists is penalized once
        logits[seen] = np.where(values < 0, values * penalty, values / penalty)
    if output_counts:
        counts = np.fromiter(output_counts.values(), dtype=np.float32, count=len(output_counts))
        logits[output_ids] -= counts * np.float32(params.frequency_penalty) + np.float32(params.presence_penalty)
    return logits


def distribution(logits: NDArray[np.float32], params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids [K] of the tokens that top-k, top-p and min-p leave, and weights [K] their probabilities are proportional to.

    top-k keeps the k likeliest; top-p then the fewest likeliest that together reach p (Holtzman et al. 2019); min-p
    then those at least min_p times as likely as the likeliest (Nguyen et al. 2024). As transformers' warpers do,
    each works on what the one before left. `temperature` must be 1e-5 or more.
    """
    keeps_all = params.top_k == 0 or params.top_k >= len(logits)
    ids = _all_ids(len(logits)) if keeps_all else _top_k_ids(logits, params.top_k)
    with np.errstate(over="ignore"):  # a logit too far below the best becomes -inf, and its weight 0, as it should
        weights = (logits if keeps_all else logits[ids]) - logits.max()
        weights /= np.float32(params.temperature)
    np.exp(weights, out=weights)
    if params.top_p < 1.0:
        nucleus = top_p_indices(weights, params.top_p)
        ids, weights = ids[nucleus], weights[nucleus]
    if params.min_p > 0.0:
        likely = np.flatnonzero(weights >= params.min_p * weights.max())
        ids, weights = ids[likely], weights[likely]
    return ids, weights


@lru_cache(maxsize=1)
def _all_ids(num_tokens: int) -> NDArray[np.int64]:
    ids = np.arange(num_tokens)
    ids.setflags(write=False)
    return ids


def _top_k_ids(logits: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Ids of the `top_k` (fewer than V) largest of `logits` [V]: largest first, by id where that is over `_SORTED`."""
    if top_k <= _SORTED:
        return largest(logits, top_k)
    bound = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
    kept = logits > bound
    kept[np.flatnonzero(logits == bound)[: top_k - int(np.count_nonzero(kept))]] = True
    return np.flatnonzero(kept)


def top_p_indices(weights: NDArray[np.float32], top_p: float) -> NDArray[np.int64]:
    """Indices of the fewest largest `weights` [K] that reach the share `top_p` of their sum.

    Largest first; by index where there are more than `_HEAD` of them.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    order = largest(weights, _HEAD)
    reached = np.cumsum(weights[order].astype(np.float64))
    if reached[-1] < wanted and len(order) < len(weights):
        return _wide_nucleus(weights, wanted)
    return order[: int(np.searchsorted(reached, wanted)) + 1]


def _wide_nucleus(weights: NDArray[np.float32], wanted: float) -> NDArray[np.int64]:
    """Indices, ascending, of the fewest largest `weights` [K] that add up to `wanted`; next to nothing is sorted.

    Floats that are not negative are ordered as their bits are: a histogram of the first 16 bits finds those with which
    the sum is reached; if these are many, one of the last 16 bits finds the very value. Of equal weights the first are
    taken.
    """
    bits = weights.view(np.uint32)
    buckets = (bits >> 16).astype(np.intp)
    high, missing = _reaching_bucket(buckets, weights, wanted)
    kept = buckets > high
    within = np.flatnonzero(buckets == high)
    if len(within) <= _SORTED:
        within = within[largest(weights[within], len(within))]
        count = int(np.searchsorted(np.cumsum(weights[within].astype(np.float64)), missing)) + 1
        kept[within[:count]] = True
        return np.flatnonzero(kept)
    lows = (bits[within] & 0xFFFF).astype(np.intp)
    low, missing = _reaching_bucket(lows, weights[within], missing)
    kept[within[lows > low]] = True
    ties = within[lows == low]
    weight = float(weights[ties[0]])
    kept[ties[: max(1, int(np.ceil(missing / weight)))] if weight > 0 else ties] = True
    return np.flatnonzero(kept)


def _reaching_bucket(buckets: NDArray[Any], weights: NDArray[np.float32], wanted: float) -> tuple[int, float]:
    """The last bucket, counted from the highest, that is needed for a sum of `wanted`; and what it has to bring."""
    sums = np.bincount(buckets, weights=weights)
    reached = np.cumsum(sums[::-1])[::-1]  # each bucket and all above it
    last = int(np.flatnonzero(reached >= min(wanted, reached[0]))[-1])
    return last, wanted - (float(reached[last + 1]) if last + 1 < len(reached) else 0.0)


def largest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest of `values` [K], largest first, equal ones by index; all where K is smaller."""
    num_groups = len(values) // _GROUP
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    if count > num_groups:
        bound = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > bound)
        ties = np.flatnonzero(values == bound)[: count - len(above)]
        return np.concatenate((above[np.argsort(-values[above], kind="stable")], ties))
    # The count-th largest of the groups' maxima is a bound that at least `count` values reach, and few others do.
    maxima = values[: num_groups * _GROUP].reshape(_GROUP, num_groups).max(axis=0)
    bound = np.partition(maxima, num_groups - count)[num_groups - count]
    candidates = np.flatnonzero(values >= bound)
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]


def draw_index(weights: NDArray[np.float32], rng: np.random.Generator) -> int:
    """An index of `weights` [K], drawn in proportion, by inverting their cumulative sum at one uniform number."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64)
    block, rest = _invert(blocks, rng.random() * float(blocks.sum()))
    start = block * _BLOCK
    return start + _invert(weights[start : start + _BLOCK], rest)[0]


def _invert(weights: NDArray[Any], target: float) -> tuple[int, float]:
    """The first index up to which `weights` add up to more than `target`, and how much of `target` it has to bring.

    The index is never one of weight 0, also where rounding puts `target` at the very end.
    """
    reached = np.cumsum(weights, dtype=np.float64)
    index = int(np.searchsorted(reached, min(target, np.nextafter(reached[-1], 0.0)), side="right"))
    return index, target - float(reached[index - 1]) if index else target


def token_logprob(logits: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprob:
    """Log-probabilities of `token_id` and of the `num_top` likeliest tokens, likeliest first.

    They are the model's own: of softmax(logits) before penalties, temperature and truncation, as in vLLM's
    `raw_logprobs`, so they compare between requests whatever their sampling.
    """
    peak = logits.max()
    log_sum = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    top = largest(logits, num_top) if num_top else ()
    return TokenLogprob(
        token_id=token_id,
        logprob=float(logits[token_id]) - log_sum,
        top=tuple((int(i), float(logits[i]) - log_sum) for i in top),
    )
