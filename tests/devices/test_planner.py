"""The memory planner, over drawn models, budgets and requests: what it promises holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.devices.memory import (
    DECODING_PROCESS_BYTES,
    GOOD_DECODING_BYTES,
    LEAST_DECODING_BYTES,
    MIN_IMAGE_TOKENS,
    MOST_DECODING_BYTES,
    MemoryRequest,
    ModelFootprint,
    format_bytes,
)
from edge_runtime.devices.planner import TEXT_TOKENS, plan_memory, smallest_changes
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.errors import BadParameter, DoesNotFit

MIB, GIB = 2**20, 2**30

MODEL_2B = ModelFootprint(
    weights_bytes=1300 * MIB,
    prepacked_bytes=0,
    fixed_bytes=250 * MIB,
    kv_bytes_per_token={"fp32": 229_376, "int8": 60_000},
    max_context=262_144,
    patch_size=16,
    merge_size=2,
    min_pixels=65_536,
    max_pixels=16_777_216,
    vision_bytes_per_patch=60_000,
    feature_bytes_per_token=32_768,
    prefill_bytes_per_token=200_000,
    prefill_bytes_per_token_and_context=64,
)
LAPTOP = ResolvedProfile(
    name="laptop",
    threads=4,
    budget_bytes=12 * GIB,
    context_tokens=16_384,
    max_pixels=2_088_960,
    max_chats=2,
    prefill_chunk_tokens=256,
    kv_dtypes=("fp32",),
    execution_providers=("cpu",),
)
ANYTHING = MemoryRequest()


def optional(values: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.none() | values


footprints = st.builds(
    replace,
    st.just(MODEL_2B),
    weights_bytes=st.integers(1, 8 * GIB),
    prepacked_bytes=st.integers(0, GIB),
    kv_bytes_per_token=st.sampled_from([{"fp32": 229_376}, {"fp32": 229_376, "int8": 60_000}, {"int8": 9_000}]),
    max_context=st.sampled_from([512, 4096, 32_768, 262_144]),
    max_pixels=st.sampled_from([65_536, 700_000, 16_777_216]),
    vision_bytes_per_patch=st.integers(0, 200_000),
    prefill_bytes_per_token_and_context=st.integers(0, 4096),
    int4_weights_bytes=st.none() | st.integers(1, GIB),
)
profiles = st.builds(
    replace,
    st.just(LAPTOP),
    budget_bytes=st.integers(1, 32 * GIB),
    context_tokens=st.integers(1, 300_000),
    max_pixels=st.integers(1, 20_000_000),
    max_chats=st.integers(1, 8),
    prefill_chunk_tokens=st.integers(1, 2048),
    kv_dtypes=st.sampled_from([("fp32",), ("fp32", "int8"), ("int8", "fp32"), ("fp16",)]),
)
requests = st.builds(
    MemoryRequest,
    context_tokens=optional(st.integers(1, 262_144)),
    max_pixels=optional(st.integers(65_536, 16_777_216)),
    max_chats=optional(st.integers(1, 8)),
    kv_dtype=st.sampled_from([None, "fp32", "int8"]),
)


@given(footprints, profiles, requests)
def test_a_plan_keeps_the_budget_and_the_request_and_a_refusal_names_changes_that_fit(
    footprint: ModelFootprint, profile: ResolvedProfile, request: MemoryRequest
) -> None:
    try:
        plan = plan_memory(footprint, profile, request)
    except BadParameter:
        return
    except DoesNotFit as refusal:
        changes = smallest_changes(footprint, profile, request)
        for change in changes:
            assert change.text in str(refusal)
            fitting = plan_memory(change.footprint, profile, change.request)
            assert fitting.total_bytes <= fitting.budget_bytes
        with pytest.raises(DoesNotFit):  # the extra memory asked for is the least that helps
            enough = changes[-1].request.budget_bytes
            plan_memory(footprint, profile, replace(request, budget_bytes=enough - 1))
        return
    assert plan.total_bytes <= plan.budget_bytes == profile.budget_bytes
    for knob in ("context_tokens", "max_pixels", "max_chats", "kv_dtype"):
        assert getattr(request, knob) in (None, getattr(plan, knob))
    assert plan.context_tokens <= footprint.max_context
    assert footprint.min_pixels <= plan.max_pixels <= footprint.max_pixels
    assert plan.kv_bytes == footprint.kv_bytes_per_token[plan.kv_dtype] * plan.kv_tokens


def least_bytes(footprint: ModelFootprint, profile: ResolvedProfile) -> int:
    """The smallest budget that fits, if the caller asks for nothing."""
    budget_bytes = smallest_changes(footprint, profile, ANYTHING)[-1].request.budget_bytes
    assert budget_bytes is not None
    return budget_bytes


@given(footprints, profiles, st.integers(0, 16 * GIB), st.integers(0, 16 * GIB))
def test_more_memory_never_gives_less(
    footprint: ModelFootprint, profile: ResolvedProfile, spare_bytes: int, more_bytes: int
) -> None:
    budget_bytes = least_bytes(footprint, profile) + spare_bytes
    small = plan_memory(footprint, profile, MemoryRequest(budget_bytes=budget_bytes))
    large = plan_memory(footprint, profile, MemoryRequest(budget_bytes=budget_bytes + more_bytes))
    for knob in ("context_tokens", "max_pixels", "max_chats", "prefill_chunk_tokens"):
        assert getattr(large, knob) >= getattr(small, knob)


@given(footprints, profiles, st.integers(0, 16 * GIB), st.integers(0, 4 * GIB))
def test_more_weights_never_give_more(
    footprint: ModelFootprint, profile: ResolvedProfile, spare_bytes: int, more_bytes: int
) -> None:
    heavy = replace(footprint, weights_bytes=footprint.weights_bytes + more_bytes)
    request = MemoryRequest(budget_bytes=least_bytes(heavy, profile) + spare_bytes)
    light_plan, heavy_plan = plan_memory(footprint, profile, request), plan_memory(heavy, profile, request)
    for knob in ("context_tokens", "max_pixels", "max_chats", "prefill_chunk_tokens"):
        assert getattr(light_plan, knob) >= getattr(heavy_plan, knob)


def test_plenty_of_memory_gives_all_that_the_profile_offers() -> None:
    plan = plan_memory(MODEL_2B, LAPTOP, ANYTHING)
    assert (plan.context_tokens, plan.max_chats, plan.max_pixels) == (16_384, 2, 2_088_960)
    room = plan.decoding_bytes + DECODING_PROCESS_BYTES + plan.feature_cache_bytes + plan.session_bytes
    assert plan.total_bytes - room == (
        1300 * MIB
        + 250 * MIB
        + 229_376 * 2 * 16_384
        + 32_768 * 2 * (256 + 2_040)  # a chunk, and the image that it cuts
        + 60_000 * (2_088_960 // 256)
        + 256 * (200_000 + 64 * 16_384)
    )


@pytest.mark.parametrize(
    ("budget_mib", "chats", "context", "chunk", "max_pixels"),
    [
        (12_288, 2, 16_384, 256, 2_088_960),
        (8_192, 1, 16_384, 256, 2_088_960),
        (4_096, 1, 8_448, 256, 2_088_960),
        (2_600, 1, 2_496, 256, 1_507_328),
    ],
)
def test_what_gives_way_first(budget_mib: int, chats: int, context: int, chunk: int, max_pixels: int) -> None:
    plan = plan_memory(MODEL_2B, LAPTOP, MemoryRequest(budget_bytes=budget_mib * MIB))
    assert (plan.max_chats, plan.context_tokens, plan.prefill_chunk_tokens, plan.max_pixels) == (
        chats,
        context,
        chunk,
        max_pixels,
    )


def test_the_chunk_gives_way_only_as_far_as_that_saves_memory() -> None:
    wordy = replace(MODEL_2B, prefill_bytes_per_token=10 * MIB)
    plan = plan_memory(wordy, LAPTOP, MemoryRequest(budget_bytes=2_900 * MIB))
    assert plan.prefill_chunk_tokens == 32
    assert plan.max_pixels == 2_088_960
    plan = plan_memory(wordy, LAPTOP, MemoryRequest(budget_bytes=4 * GIB))
    assert plan.prefill_chunk_tokens == 32
    assert plan.prefill_bytes <= plan.vision_bytes


def test_kv_dtype_gives_way_before_the_context_where_the_profile_accepts_it() -> None:
    lossy = replace(LAPTOP, kv_dtypes=("fp32", "int8"), budget_bytes=5 * GIB)
    plan = plan_memory(MODEL_2B, lossy, ANYTHING)
    assert (plan.kv_dtype, plan.context_tokens) == ("int8", 16_384)
    plan = plan_memory(MODEL_2B, replace(lossy, kv_dtypes=("fp32",)), ANYTHING)
    assert plan.kv_dtype == "fp32"
    assert plan.context_tokens < 16_384


def test_context_that_does_not_fit_comes_with_the_one_that_does() -> None:
    with pytest.raises(DoesNotFit, match=r"context_tokens 32768 -> \d+; or \d\.\d\d GiB more memory"):
        plan_memory(MODEL_2B, replace(LAPTOP, budget_bytes=5 * GIB), MemoryRequest(context_tokens=32_768))


def test_heavy_weights_come_with_the_advice_to_quantize() -> None:
    heavy = replace(MODEL_2B, weights_bytes=8 * GIB, int4_weights_bytes=1300 * MIB)
    with pytest.raises(DoesNotFit, match="int4 weights"):
        plan_memory(heavy, replace(LAPTOP, budget_bytes=6 * GIB), ANYTHING)


def test_two_values_that_cannot_both_be_are_lowered_together() -> None:
    request = MemoryRequest(context_tokens=200_000, max_pixels=16_777_216)
    changes = smallest_changes(MODEL_2B, replace(LAPTOP, budget_bytes=4 * GIB), request)
    assert "context_tokens 200000 -> " in changes[0].text
    assert "max_pixels 16777216 -> " in changes[0].text


def test_the_largest_image_always_leaves_room_for_words() -> None:
    plan = plan_memory(MODEL_2B, LAPTOP, MemoryRequest(context_tokens=2048))
    assert MODEL_2B.image_tokens(plan.max_pixels) <= 2048 - TEXT_TOKENS
    plan = plan_memory(MODEL_2B, LAPTOP, MemoryRequest(max_pixels=16_777_216, max_chats=1))
    assert plan.context_tokens >= MODEL_2B.image_tokens(16_777_216) + TEXT_TOKENS


def test_images_do_not_give_way_below_what_grounding_needs() -> None:
    with pytest.raises(DoesNotFit, match=f"max_pixels {MIN_IMAGE_TOKENS * 1024}"):
        plan_memory(MODEL_2B, replace(LAPTOP, budget_bytes=GIB), ANYTHING)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (MemoryRequest(context_tokens=300_000), "262144"),
        (MemoryRequest(context_tokens=0), "context is 0"),
        (MemoryRequest(max_pixels=100), "65536 to 16777216"),
        (MemoryRequest(max_pixels=10**9), "65536 to 16777216"),
        (MemoryRequest(max_chats=0), "at least 1"),
        (MemoryRequest(budget_bytes=0), "must be positive"),
        (MemoryRequest(kv_dtype="fp16"), "only as fp32, int8"),
        (MemoryRequest(context_tokens=1024, max_pixels=2_097_152), "leaves no room"),
    ],
)
def test_a_request_no_memory_can_serve_is_refused(request_: MemoryRequest, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        plan_memory(MODEL_2B, LAPTOP, request_)


def test_a_refusal_says_this_of_one_way_out_and_any_of_several() -> None:
    with pytest.raises(DoesNotFit, match=r"This would fit: [^;]* more memory$"):
        plan_memory(MODEL_2B, LAPTOP, MemoryRequest(budget_bytes=GIB))
    with pytest.raises(DoesNotFit, match=r"Any of these would fit: context_tokens .*; or .* more memory$"):
        plan_memory(MODEL_2B, LAPTOP, MemoryRequest(context_tokens=200_000))


def test_pictures_get_half_of_what_is_left_and_give_way_last() -> None:
    roomy = plan_memory(MODEL_2B, LAPTOP, MemoryRequest(budget_bytes=16 * GIB))
    assert roomy.decoding_bytes == MOST_DECODING_BYTES
    settings = MemoryRequest(context_tokens=4096, max_pixels=1_048_576, max_chats=1, kv_dtype="fp32")
    least = smallest_changes(MODEL_2B, LAPTOP, replace(settings, budget_bytes=1))[-1].request.budget_bytes
    assert least is not None
    tight = plan_memory(MODEL_2B, LAPTOP, replace(settings, budget_bytes=least))
    assert tight.decoding_bytes == LEAST_DECODING_BYTES
    some = plan_memory(MODEL_2B, LAPTOP, replace(settings, budget_bytes=least + 400 * MIB))
    assert GOOD_DECODING_BYTES + 100 * MIB < some.decoding_bytes < MOST_DECODING_BYTES


def test_rows_add_up_for_people() -> None:
    plan = plan_memory(MODEL_2B, LAPTOP, ANYTHING)
    rows = {what: size for what, size, _ in plan.rows()}
    assert rows["total"] == format_bytes(plan.total_bytes)
    assert rows["budget"] == "12.00 GiB"
    assert rows["KV cache"] == "7.00 GiB"
    remarks = {what: remark for what, _, remark in plan.rows()}
    assert f"about {format_bytes(plan.loaded_bytes)} once loaded" in remarks["total"]
    assert remarks["KV cache"].startswith("held for 2 chats")


def test_format_bytes() -> None:
    assert format_bytes(0) == "0 MiB"
    assert format_bytes(1023 * MIB) == "1023 MiB"
    assert format_bytes(3 * GIB // 2) == "1.50 GiB"
