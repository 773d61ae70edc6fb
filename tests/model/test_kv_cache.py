import pytest

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import ContiguousKVCache


def test_leases_share_one_budget() -> None:
    cache = ContiguousKVCache(10, allocate=bytearray)
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
    lease = ContiguousKVCache(4, allocate=bytearray).lease(4)
    assert lease is not None
    lease.extend(4)
    lease.truncate(1)
    assert lease.length == 1
    with pytest.raises(InternalError):
        lease.extend(4)
    with pytest.raises(InternalError):
        lease.truncate(2)


def test_freed_lease_is_dead() -> None:
    lease = ContiguousKVCache(4, allocate=bytearray).lease(4)
    assert lease is not None
    lease.free()
    with pytest.raises(InternalError, match="freed"):
        _ = lease.buffers


def test_failed_allocation_costs_no_room() -> None:
    def fail(num_tokens: int) -> None:
        raise MemoryError(num_tokens)

    cache = ContiguousKVCache(4, allocate=fail)
    with pytest.raises(MemoryError):
        cache.lease(4)
    assert cache.free_tokens == 4
