import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import RowSource
from edge_runtime.model.paged_kv_cache import PagedKVCache, PagedLease


def test_room_is_counted_in_whole_blocks() -> None:
    cache = PagedKVCache(100, block_size=16)
    assert (cache.num_blocks, cache.max_tokens, cache.free_tokens) == (7, 112, 112)
    lease = cache.lease(17)
    assert lease is not None
    assert (lease.capacity, lease.length, len(lease.block_ids), cache.free_tokens) == (32, 0, 2, 80)
    assert cache.lease(81) is None
    assert cache.free_tokens == 80
    assert cache.lease(80) is not None
    assert cache.free_tokens == 0
    assert cache.lease(1) is None


def test_length_is_extended_and_cut() -> None:
    lease = PagedKVCache(16, block_size=8).lease(10)
    assert lease is not None
    lease.extend(16)
    lease.truncate(9)
    lease.extend(7)
    assert lease.length == 16
    with pytest.raises(InternalError):
        lease.extend(1)
    with pytest.raises(InternalError):
        lease.truncate(17)


def test_freed_lease_is_dead() -> None:
    cache = PagedKVCache(16, block_size=8)
    lease = cache.lease(10)
    assert lease is not None
    lease.extend(5)
    lease.free()
    lease.free()
    assert (lease.length, cache.free_tokens) == (0, 16)
    with pytest.raises(InternalError, match="freed"):
        _ = lease.block_ids


@pytest.mark.parametrize(("max_tokens", "block_size"), [(0, 8), (8, 0), (-1, 8)])
def test_cache_without_room_is_refused(max_tokens: int, block_size: int) -> None:
    with pytest.raises(InternalError):
        PagedKVCache(max_tokens, block_size)


def test_lease_of_nothing_is_refused() -> None:
    with pytest.raises(InternalError):
        PagedKVCache(8, 8).lease(0)


@given(st.lists(st.integers(-5, 70), max_size=40))
def test_no_block_is_ever_held_twice_or_lost(requests: list[int]) -> None:
    """Positive: lease so many tokens; else: free the lease at that place."""
    cache = PagedKVCache(128, block_size=16)
    held: list[PagedLease] = []
    for request in requests:
        if request > 0:
            lease = cache.lease(request)
            assert (lease is None) == (request > 16 * (8 - sum(len(one.block_ids) for one in held)))
            if lease is not None:
                held.append(lease)
        elif held:
            held.pop(request % len(held)).free()
        ids = [int(block) for lease in held for block in lease.block_ids]
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(range(8))
        assert cache.free_tokens == 128 - 16 * len(ids)


def test_a_block_is_free_when_nobody_refers_to_it_any_more() -> None:
    cache = PagedKVCache(80, block_size=16)
    first = cache.lease(40)
    assert first is not None
    first.extend(32)
    first.commit((b"a", b"b"))
    second = cache.lease(40, (b"a", b"b"))
    assert second is not None
    assert cache.free_tokens == 16
    first.free()
    assert cache.free_tokens == 32
    other = cache.lease(32)
    assert other is not None
    assert not set(other.block_ids) & set(second.block_ids)
    second.free()
    assert cache.free_tokens == 48
    other.free()
    assert cache.free_tokens == 80


def test_to_release_what_nobody_holds_is_an_internal_error() -> None:
    cache = PagedKVCache(64, block_size=16)
    lease = cache.lease(16)
    assert lease is not None
    blocks = lease.block_ids
    lease.free()
    assert cache.free_tokens == 64
    with pytest.raises(InternalError, match="released more often"):
        cache.release(blocks)


def test_a_lease_goes_back_to_its_checkpoint() -> None:
    lease = PagedKVCache(64, block_size=16).lease(40)
    assert lease is not None
    lease.extend(10)
    checkpoint = lease.checkpoint()
    lease.extend(20)
    lease.restore(checkpoint)
    assert lease.length == 10
    lease.truncate(5)
    with pytest.raises(InternalError):
        lease.restore(checkpoint)


def test_blocks_are_found_by_key_and_shared() -> None:
    cache = PagedKVCache(96, block_size=16)
    first = cache.lease(40)
    assert first is not None
    first.extend(40)
    first.commit((b"a", b"b"))
    second = cache.lease(40, (b"a", b"b"))
    third = cache.lease(20, (b"a",))
    assert second is not None
    assert third is not None
    assert (second.num_reused, second.length, third.num_reused) == (32, 32, 16)
    assert second.block_ids[:2].tolist() == first.block_ids[:2].tolist()
    assert cache.free_tokens == 96 - 16 * 5
    for lease in (first, second, third):
        lease.free()
    assert (cache.free_tokens, cache.kept_tokens) == (96, 32)


def test_kept_blocks_give_way_the_end_of_the_oldest_chat_first() -> None:
    cache = PagedKVCache(64, block_size=16)
    for keys in ((b"a", b"b"), (b"x", b"y")):
        lease = cache.lease(32)
        assert lease is not None
        lease.extend(32)
        lease.commit(keys)
        lease.free()
    assert (cache.free_tokens, cache.kept_tokens) == (64, 64)
    assert cache.lease(16) is not None
    found = cache.lease(33, (b"a", b"b"))
    assert found is not None
    assert found.num_reused == 16


def test_what_is_committed_is_not_cut_and_what_is_not_in_is_not_committed() -> None:
    lease = PagedKVCache(64, block_size=16).lease(40)
    assert lease is not None
    lease.extend(20)
    with pytest.raises(InternalError, match="were committed"):
        lease.commit((b"a", b"b"))
    lease.commit((b"a",))
    lease.truncate(16)
    with pytest.raises(InternalError, match="is committed"):
        lease.truncate(15)


def test_a_key_is_for_one_block() -> None:
    cache = PagedKVCache(64, block_size=16)
    leases = [cache.lease(16) for _ in range(2)]
    for lease in leases:
        assert lease is not None
        lease.extend(16)
        lease.commit((b"a",))
        lease.free()
    assert (cache.kept_tokens, cache.free_tokens) == (16, 64)


def paged_rows(cache: PagedKVCache) -> list[int]:
    """A row per token, that `copy_rows` moves."""
    rows = list(range(cache.max_tokens))

    def copy_rows(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            rows[target] = rows[source]

    cache.copy_rows = copy_rows
    return rows


def test_rows_of_another_past_are_copied_behind_the_blocks_that_are_shared() -> None:
    cache = PagedKVCache(64, block_size=4)
    rows = paged_rows(cache)
    first = cache.lease(12)
    assert first is not None
    first.extend(12)
    first.commit([b"a", b"b", b"c"])
    old = [int(block) * 4 + place for block in first.block_ids for place in range(4)]
    first.free()
    wanted = np.array([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12], dtype=np.int64)
    lease = cache.lease(14, [b"a", b"b2", b"c2"], [RowSource([b"a", b"b", b"c"], wanted)])
    assert lease is not None
    mine = [rows[int(block) * 4 + place] for block in lease.block_ids for place in range(4)][: lease.length]
    assert mine == [old[index] for index in wanted[:10]]
    assert (lease.num_reused, lease.num_committed) == (10, 2)
    assert lease.block_ids[0] == old[0] // 4
    assert cache.free_tokens == 64 - 16
    other = cache.lease(9, [b"a", b"b2"])
    assert other is not None
    assert other.block_ids[:2].tolist() == lease.block_ids[:2].tolist()
    lease.free()
    other.free()
    assert cache.free_tokens == 64
    assert not cache._references.any()


def test_rows_are_not_copied_where_there_is_no_room_for_both() -> None:
    cache = PagedKVCache(16, block_size=4)  # and without a memory: copying would raise
    first = cache.lease(12)
    assert first is not None
    first.extend(12)
    first.commit([b"a", b"b", b"c"])
    first.free()
    lease = cache.lease(12, [b"a2"], [RowSource([b"a", b"b", b"c"], np.arange(1, 12))])
    assert lease is not None
    assert (lease.num_reused, cache.free_tokens) == (0, 4)
