import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.contiguous_kv_cache import ContiguousKVCache
from edge_runtime.model.kv_cache import RowSource


def cache_of(max_tokens: int, block_size: int = 4) -> ContiguousKVCache[bytearray]:
    """A cache whose buffers have a byte a token."""

    def copy(source: bytearray, target: bytearray, rows: NDArray[np.int64]) -> None:
        target[: len(rows)] = bytes(source[row] for row in rows)

    return ContiguousKVCache(max_tokens, block_size, bytearray, copy)


def test_leases_share_one_budget() -> None:
    cache = cache_of(10)
    first = cache.lease(6)
    assert first is not None
    assert (first.capacity, first.length, len(first.buffers)) == (6, 0, 6)
    assert cache.lease(5) is None
    second = cache.lease(4)
    assert second is not None
    assert cache.free_tokens == 0
    first.free()
    first.free()
    assert cache.free_tokens == 6
    second.free()
    assert cache.free_tokens == cache.max_tokens == 10


def test_length_is_extended_and_cut() -> None:
    lease = cache_of(4).lease(4)
    assert lease is not None
    lease.extend(4)
    lease.truncate(1)
    assert lease.length == 1
    with pytest.raises(InternalError):
        lease.extend(4)
    with pytest.raises(InternalError):
        lease.truncate(2)


def test_freed_lease_is_dead() -> None:
    lease = cache_of(4).lease(4)
    assert lease is not None
    lease.free()
    with pytest.raises(InternalError, match="freed"):
        _ = lease.buffers


def test_failed_allocation_costs_no_room() -> None:
    def fail(num_tokens: int) -> None:
        raise MemoryError(num_tokens)

    cache = ContiguousKVCache(4, 4, fail, lambda *_: None)
    with pytest.raises(MemoryError):
        cache.lease(4)
    assert cache.free_tokens == 4


KEYS = (b"a", b"b", b"c")


def filled(cache: ContiguousKVCache[bytearray], num_tokens: int, keys: tuple[bytes, ...], value: int = 7) -> bytearray:
    """A chat that ran and ended; its buffers."""
    lease = cache.lease(num_tokens)
    assert lease is not None
    lease.buffers[:] = bytes([value]) * num_tokens
    lease.extend(num_tokens)
    lease.commit(keys)
    buffers = lease.buffers
    lease.free()
    return buffers


def test_a_lease_that_goes_on_takes_over_kept_buffers() -> None:
    cache = cache_of(100)
    old = filled(cache, 40, KEYS)
    assert (cache.free_tokens, cache.kept_tokens) == (100, 12)
    lease = cache.lease(30, (*KEYS, b"d"))
    assert lease is not None
    assert cache.kept_tokens == 0
    assert lease.buffers is old
    assert (lease.num_reused, lease.length, lease.capacity, cache.free_tokens) == (12, 12, 40, 60)
    other = cache.lease(40, KEYS)
    assert other is not None
    assert (other.buffers is old, other.num_reused) == (False, 0)


@pytest.mark.parametrize("num_tokens", [13, 60])
def test_another_branch_or_length_gets_a_copy_and_the_old_buffers_stay(num_tokens: int) -> None:
    cache = cache_of(100)
    old = filled(cache, 40, KEYS)
    lease = cache.lease(num_tokens, (b"a", b"b", b"x"))
    assert lease is not None
    assert lease.buffers is not old
    assert (lease.num_reused, lease.capacity, cache.free_tokens) == (8, num_tokens, 100 - num_tokens)
    assert lease.buffers[:8] == bytes([7]) * 8
    again = cache.lease(40, KEYS)
    assert again is not None
    assert (again.buffers is old, again.num_reused) == (True, 12)


def test_a_copy_is_made_when_there_is_room_for_it_and_others_have_gone() -> None:
    held: list[bytearray] = []

    def allocate(num_tokens: int) -> bytearray:
        assert sum(kept.capacity for kept in cache._kept) + num_tokens <= cache.free_tokens
        held.append(bytearray(num_tokens))
        return held[-1]

    def copy(source: bytearray, target: bytearray, rows: NDArray[np.int64]) -> None:
        target[: len(rows)] = bytes(source[row] for row in rows)

    cache = ContiguousKVCache(100, 4, allocate, copy)
    filled(cache, 40, (b"x",))
    filled(cache, 40, KEYS)
    lease = cache.lease(60, KEYS)
    assert lease is not None
    assert lease.num_reused == 12


def test_of_kept_buffers_the_best_are_taken_and_of_equals_the_latest() -> None:
    cache = cache_of(100)
    filled(cache, 13, KEYS[:1], 1)
    filled(cache, 13, KEYS, 2)
    filled(cache, 13, KEYS, 3)
    lease = cache.lease(13, KEYS)
    assert lease is not None
    assert lease.buffers[0] == 3


def test_kept_buffers_give_way_to_leases_the_oldest_first() -> None:
    cache = cache_of(40)
    filled(cache, 13, KEYS[:1])
    second = filled(cache, 13, (b"x",))
    lease = cache.lease(20)
    assert lease is not None
    found = cache.lease(13, (b"x",))
    assert found is not None
    assert found.buffers is second
    assert found.num_reused == 4
    found.free()
    again = cache.lease(13, KEYS[:1])
    assert again is not None
    assert again.num_reused == 0


def test_there_is_no_reuse_where_a_copy_would_not_fit() -> None:
    cache = cache_of(40)
    filled(cache, 20, KEYS)
    lease = cache.lease(30, KEYS)
    assert lease is not None
    assert (lease.num_reused, cache.free_tokens) == (0, 10)


def test_nothing_is_kept_of_a_chat_that_committed_nothing() -> None:
    cache = cache_of(40)
    old = filled(cache, 13, ())
    lease = cache.lease(13, KEYS)
    assert lease is not None
    assert lease.buffers is not old


def test_what_is_committed_is_not_cut_and_what_is_not_in_is_not_committed() -> None:
    lease = cache_of(40).lease(20)
    assert lease is not None
    lease.extend(7)
    with pytest.raises(InternalError, match="were committed"):
        lease.commit(KEYS)
    lease.commit(KEYS[:1])
    lease.truncate(4)
    with pytest.raises(InternalError, match="is committed"):
        lease.truncate(3)


def source(keys: tuple[bytes, ...], *rows: int) -> RowSource:
    return RowSource(keys, np.array(rows, dtype=np.int64))


def numbered(cache: ContiguousKVCache[bytearray], num_tokens: int) -> bytearray:
    """A chat whose bytes count up; its buffers."""
    buffers = filled(cache, num_tokens, KEYS)
    buffers[:] = bytes(range(num_tokens))
    return buffers


ROWS = (0, 1, 4, 5, 9, 11, 13)


@pytest.mark.parametrize(("room", "is_moved"), [(100, False), (20, True)])
def test_rows_of_another_past_are_copied_or_without_room_for_both_moved(room: int, *, is_moved: bool) -> None:
    cache = cache_of(room)
    old = numbered(cache, 20)
    lease = cache.lease(16, (b"a2", b"b2", b"c2"), [source((b"x",), 1), source(KEYS, *ROWS)])
    assert lease is not None
    assert (lease.buffers is old) == is_moved
    assert lease.buffers[:6] == bytes(row for row in ROWS if row < 12)  # row 13 was never committed
    assert (lease.num_reused, lease.length, lease.num_committed) == (6, 6, 1)
    assert cache.free_tokens == room - lease.capacity
    lease.free()
    assert cache.free_tokens == room
    again = cache.lease(16, (b"a2", b"b2"))
    assert again is not None
    assert again.num_reused == 4


def test_a_source_that_has_no_more_than_the_keys_is_left_alone() -> None:
    cache = cache_of(100)
    numbered(cache, 20)
    lease = cache.lease(30, KEYS[:2], [source(KEYS, 0, 1, 2, 3, 8, 9)])
    assert lease is not None
    assert lease.buffers[:8] == bytes(range(8))
