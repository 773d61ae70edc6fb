import pytest

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import ContiguousKVCache


def test_leases_share_one_budget() -> None:
    cache = ContiguousKVCache(10, lambda: bytearray(10), block_size=4)
    first = cache.lease(6)
    assert first is not None
    assert (first.capacity, first.length, len(first.buffers)) == (6, 0, 10)
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
    lease = ContiguousKVCache(4, lambda: bytearray(4), block_size=4).lease(4)
    assert lease is not None
    lease.extend(4)
    lease.truncate(1)
    assert lease.length == 1
    with pytest.raises(InternalError):
        lease.extend(4)
    with pytest.raises(InternalError):
        lease.truncate(2)


def test_freed_lease_is_dead() -> None:
    lease = ContiguousKVCache(4, lambda: bytearray(4), block_size=4).lease(4)
    assert lease is not None
    lease.free()
    with pytest.raises(InternalError, match="freed"):
        _ = lease.buffers


def test_failed_allocation_costs_no_room() -> None:
    def fail() -> None:
        raise MemoryError

    cache = ContiguousKVCache(4, fail, block_size=4)
    with pytest.raises(MemoryError):
        cache.lease(4)
    assert cache.free_tokens == 4


KEYS = (b"a", b"b", b"c")


def filled(cache: ContiguousKVCache[object], num_tokens: int, keys: tuple[bytes, ...]) -> object:
    """A chat that ran and ended; its buffers."""
    lease = cache.lease(num_tokens)
    assert lease is not None
    lease.extend(num_tokens)
    lease.commit(keys)
    buffers = lease.buffers
    lease.free()
    return buffers


def test_a_lease_that_begins_alike_takes_over_kept_buffers() -> None:
    cache: ContiguousKVCache[object] = ContiguousKVCache(100, object, block_size=4)
    old = filled(cache, 13, KEYS)
    assert cache.free_tokens == 100
    lease = cache.lease(40, (b"a", b"b", b"x"))
    assert lease is not None
    assert (lease.buffers, lease.num_reused, lease.length, lease.capacity) == (old, 8, 8, 40)
    other = cache.lease(40, KEYS)
    assert other is not None
    assert (other.buffers is old, other.num_reused) == (False, 0)


def test_kept_buffers_give_way_to_leases_the_oldest_first() -> None:
    cache: ContiguousKVCache[object] = ContiguousKVCache(40, object, block_size=4)
    first, second = filled(cache, 13, KEYS[:1]), filled(cache, 13, (b"x",))
    lease = cache.lease(20)
    assert lease is not None
    found = cache.lease(14, (b"x",))
    assert found is not None
    assert (found.buffers, found.num_reused) == (second, 4)
    found.free()
    again = cache.lease(14, KEYS[:1])
    assert again is not None
    assert again.buffers is not first


def test_memory_that_was_written_is_counted_for_as_long_as_it_is_held() -> None:
    cache: ContiguousKVCache[object] = ContiguousKVCache(40, object, block_size=4)
    filled(cache, 30, KEYS)
    small = cache.lease(13, KEYS)
    assert small is not None
    assert (small.num_reused, cache.free_tokens) == (12, 10)
    small.free()
    assert cache.free_tokens == 40


def test_nothing_is_kept_of_a_chat_that_committed_nothing() -> None:
    cache: ContiguousKVCache[object] = ContiguousKVCache(40, object, block_size=4)
    old = filled(cache, 13, ())
    lease = cache.lease(13, KEYS)
    assert lease is not None
    assert lease.buffers is not old
