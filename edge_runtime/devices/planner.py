"""What fits: context, KV dtype, image size and chats within a memory budget, decided before anything is loaded.

The model comes as `ModelFootprint`, plain numbers, so that this is arithmetic and nothing else. Where not all that the
profile offers fits, it gives way in this order, each knob down to its floor before the next is touched: number of
chats, KV dtype (among those the profile accepts), context, prefill chunk, image size. What the caller asked for by
name never gives way; if that cannot be, `DoesNotFit` says which single changes would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge_runtime.devices.memory import (
    GOOD_DECODING_BYTES,
    LEAST_DECODING_BYTES,
    MIN_IMAGE_TOKENS,
    Change,
    MemoryPlan,
    MemoryRequest,
    ModelFootprint,
    format_bytes,
)
from edge_runtime.devices.profile import KVDtype
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.errors import BadParameter, DoesNotFit

__all__ = ["Change", "MemoryPlan", "MemoryRequest", "ModelFootprint", "plan_memory", "smallest_changes"]

TEXT_TOKENS = 1024
"""Room for words kept beside the largest image when the context gives way."""
MIN_PREFILL_CHUNK = 32
CONTEXT_STEP = 256
PIXEL_STEP = 65_536
_KNOBS = ("context_tokens", "max_pixels", "max_chats", "kv_dtype")


def plan_memory(footprint: ModelFootprint, profile: ResolvedProfile, request: MemoryRequest) -> MemoryPlan:
    """Choose the best settings that fit the budget (the request's, else the profile's).

    Raises `BadParameter` if the request contradicts the model or itself, and `DoesNotFit` with the smallest
    changes that would fit.
    """
    _check_request(footprint, request)
    search = _Search(footprint, profile, request)
    plan = search.best_plan()
    if plan is not None:
        return plan
    least = search.least_plan()
    changes = [change.text for change in smallest_changes(footprint, profile, request)]
    lead = "This would fit" if len(changes) == 1 else "Any of these would fit"
    raise DoesNotFit(
        f"the model needs at least {format_bytes(least.total_bytes)} ({format_bytes(least.weights_bytes)} of it "
        f"weights) with context {least.context_tokens} and max_pixels {least.max_pixels}, but the budget is "
        f"{format_bytes(least.budget_bytes)}. {lead}: {'; or '.join(changes)}"
    )


def smallest_changes(footprint: ModelFootprint, profile: ResolvedProfile, request: MemoryRequest) -> tuple[Change, ...]:
    """Ways to make a question fit which does not: every single change that does it, each as small as it can be.

    Where no single value of the request can save it, all of them together; more memory always comes last.
    """
    asked = [knob for knob in _KNOBS if getattr(request, knob) is not None]
    changes = [change for knob in asked if (change := _lower(footprint, profile, request, (knob,)))]
    if not changes and len(asked) > 1 and (change := _lower(footprint, profile, request, tuple(asked))):
        changes.append(change)
    int4 = footprint.with_int4_weights()
    if int4 != footprint and _Search(int4, profile, request).best_plan() is not None:
        changes.append(Change("a bundle with int4 weights (edge-export --weights int4)", int4, request))
    least = _Search(footprint, profile, request).least_plan()
    more = f"{format_bytes(least.total_bytes - least.budget_bytes)} more memory"
    changes.append(Change(more, footprint, replace(request, budget_bytes=least.total_bytes)))
    return tuple(changes)


def _lower(
    footprint: ModelFootprint, profile: ResolvedProfile, request: MemoryRequest, knobs: tuple[str, ...]
) -> Change | None:
    """The change of just these values of the request that fits, or None."""
    plan = _Search(footprint, profile, request, relaxed=frozenset(knobs)).best_plan()
    if plan is None:
        return None
    needed = {knob: getattr(plan, knob) for knob in knobs}
    words = " and ".join(f"{knob} {getattr(request, knob)} -> {value}" for knob, value in needed.items())
    return Change(words, footprint, replace(request, **needed))


def _check_request(footprint: ModelFootprint, request: MemoryRequest) -> None:
    """Raise `BadParameter` for values that no amount of memory makes possible."""
    context, max_pixels = request.context_tokens, request.max_pixels
    if context is not None and not 1 <= context <= footprint.max_context:
        raise BadParameter(f"context is {context}; this model takes 1 to {footprint.max_context} tokens")
    if max_pixels is not None and not footprint.min_pixels <= max_pixels <= footprint.max_pixels:
        raise BadParameter(
            f"max_pixels is {max_pixels}; this bundle takes {footprint.min_pixels} to {footprint.max_pixels}"
        )
    if request.max_chats is not None and request.max_chats < 1:
        raise BadParameter(f"max_chats is {request.max_chats}; it must be at least 1")
    if request.budget_bytes is not None and request.budget_bytes < 1:
        raise BadParameter(f"the memory budget is {request.budget_bytes} bytes; it must be positive")
    if request.kv_dtype is not None and request.kv_dtype not in footprint.kv_bytes_per_token:
        known = ", ".join(footprint.kv_bytes_per_token)
        raise BadParameter(f"this bundle cannot store keys and values as {request.kv_dtype}, only as {known}")
    if context is not None and max_pixels is not None and footprint.image_tokens(max_pixels) >= context:
        raise BadParameter(
            f"an image of max_pixels {max_pixels} is {footprint.image_tokens(max_pixels)} tokens and leaves no room "
            f"for a question in a context of {context}; lower max_pixels or raise the context"
        )


@dataclass(frozen=True, slots=True)
class _Settings:
    """One value of every knob."""

    max_chats: int
    kv_dtype: KVDtype
    context_tokens: int
    prefill_chunk_tokens: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class _Search:
    """The ladder of settings for one question. Every rung costs less than the one before, the best comes first."""

    footprint: ModelFootprint
    profile: ResolvedProfile
    request: MemoryRequest
    relaxed: frozenset[str] = frozenset()
    """Knobs of the request that may, this once, go below what was asked."""

    def best_plan(self) -> MemoryPlan | None:
        """The plan of the first rung that fits, or None. Large pictures are given up only below the last rung."""
        plans = (self._cost(rung, GOOD_DECODING_BYTES) for rung in self._rungs())
        best = next((plan for plan in plans if plan.total_bytes <= plan.budget_bytes), self.least_plan())
        return best.with_room_for_pictures() if best.total_bytes <= best.budget_bytes else None

    def least_plan(self) -> MemoryPlan:
        """The plan of the last rung, whether it fits or not."""
        *_, last = self._rungs()
        return self._cost(last, LEAST_DECODING_BYTES)

    def _rungs(self) -> Iterator[_Settings]:
        rung = self._top()
        yield rung
        if self._free("max_chats"):
            for chats in range(rung.max_chats - 1, 0, -1):
                rung = replace(rung, max_chats=chats)
                yield rung
        if self._free("kv_dtype"):
            for dtype in self._dtypes_below(rung.kv_dtype):
                rung = replace(rung, kv_dtype=dtype)
                yield rung
        if self._free("context_tokens"):
            for context in _steps_down(rung.context_tokens, self._least_context(rung.max_pixels), CONTEXT_STEP):
                rung = replace(rung, context_tokens=context)
                yield rung
        rung = self._with_free_chunk(rung)
        yield rung
        if self._free("max_pixels"):
            for max_pixels in _steps_down(rung.max_pixels, self._least_pixels(), PIXEL_STEP):
                rung = replace(rung, max_pixels=max_pixels)
                if self._free("context_tokens"):
                    rung = replace(rung, context_tokens=min(rung.context_tokens, self._least_context(max_pixels)))
                rung = self._with_free_chunk(rung)
                yield rung

    def _top(self) -> _Settings:
        """All that was asked for, and all the profile offers."""
        asked, footprint, profile = self.request, self.footprint, self.profile
        offered = min(profile.context_tokens, footprint.max_context)
        max_pixels = asked.max_pixels
        if max_pixels is None:
            context = asked.context_tokens or offered
            holds = footprint.pixels_of(context - min(TEXT_TOKENS, context // 2))
            max_pixels = max(min(profile.max_pixels, footprint.max_pixels, holds), footprint.min_pixels)
        return _Settings(
            max_chats=asked.max_chats or profile.max_chats,
            kv_dtype=asked.kv_dtype or self._accepted_dtypes()[0],
            context_tokens=asked.context_tokens or max(offered, self._least_context(max_pixels)),
            prefill_chunk_tokens=profile.prefill_chunk_tokens,
            max_pixels=max_pixels,
        )

    def _free(self, knob: str) -> bool:
        return getattr(self.request, knob) is None or knob in self.relaxed

    def _least_context(self, max_pixels: int) -> int:
        """The shortest context that is still of use: one largest image, and words."""
        return min(self.footprint.image_tokens(max_pixels) + TEXT_TOKENS, self.footprint.max_context)

    def _least_pixels(self) -> int:
        return max(self.footprint.pixels_of(MIN_IMAGE_TOKENS), self.footprint.min_pixels)

    def _accepted_dtypes(self) -> list[KVDtype]:
        """What profile and bundle have in common; where that is nothing, what the bundle has."""
        stored = self.footprint.kv_bytes_per_token
        return [dtype for dtype in self.profile.kv_dtypes if dtype in stored] or list(stored)

    def _dtypes_below(self, dtype: KVDtype) -> Iterator[KVDtype]:
        """The accepted dtypes that take less and less room."""
        stored = self.footprint.kv_bytes_per_token
        for candidate in self._accepted_dtypes():
            if stored[candidate] < stored[dtype]:
                yield (dtype := candidate)

    def _with_free_chunk(self, rung: _Settings) -> _Settings:
        """The same with a prefill chunk that needs no more memory than the vision run."""
        affordable = self._vision_bytes(rung) // max(self._prefill_bytes(rung) // rung.prefill_chunk_tokens, 1)
        chunk = max(affordable // MIN_PREFILL_CHUNK, 1) * MIN_PREFILL_CHUNK
        return replace(rung, prefill_chunk_tokens=min(chunk, rung.prefill_chunk_tokens))

    def _vision_bytes(self, rung: _Settings) -> int:
        return self.footprint.vision_bytes_per_patch * (rung.max_pixels // self.footprint.patch_size**2)

    def _feature_tokens(self, rung: _Settings) -> int:
        """Most image tokens whose features one chat holds: those of a chunk, and the rest of the image that it cuts."""
        return min(rung.prefill_chunk_tokens + self.footprint.image_tokens(rung.max_pixels), rung.context_tokens)

    def _prefill_bytes(self, rung: _Settings) -> int:
        per_context_token = self.footprint.prefill_bytes_per_token_and_context
        per_chunk_token = self.footprint.prefill_bytes_per_token + per_context_token * rung.context_tokens
        return per_chunk_token * rung.prefill_chunk_tokens

    def _cost(self, rung: _Settings, decoding_bytes: int) -> MemoryPlan:
        footprint = self.footprint
        tokens = rung.context_tokens * rung.max_chats
        return MemoryPlan(
            context_tokens=rung.context_tokens,
            max_pixels=rung.max_pixels,
            max_chats=rung.max_chats,
            kv_dtype=rung.kv_dtype,
            prefill_chunk_tokens=rung.prefill_chunk_tokens,
            budget_bytes=self.request.budget_bytes or self.profile.budget_bytes,
            weights_bytes=footprint.weights_bytes + footprint.prepacked_bytes,
            fixed_bytes=footprint.fixed_bytes,
            kv_bytes=footprint.kv_bytes_per_token[rung.kv_dtype] * tokens,
            features_bytes=footprint.feature_bytes_per_token * self._feature_tokens(rung) * rung.max_chats,
            vision_bytes=self._vision_bytes(rung),
            prefill_bytes=self._prefill_bytes(rung),
            decoding_bytes=decoding_bytes,
        )


def _steps_down(value: int, floor: int, step: int) -> Iterator[int]:
    """Multiples of `step` below `value`, then `floor`; nothing if `value` is not above `floor`."""
    if value > floor:
        yield from range((value - 1) // step * step, floor, -step)
        yield floor
