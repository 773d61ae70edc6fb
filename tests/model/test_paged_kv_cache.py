import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import PagedKVCache, PagedLease


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
    cache = PagedKVCache(64, block_size=16)
    lease = cache.lease(40)
    assert lease is not None
    kept = lease.block_ids[:2]
    cache.hold(kept)
    lease.free()
    assert cache.free_tokens == 32
    other = cache.lease(32)
    assert other is not None
    assert not set(other.block_ids) & set(kept)
    cache.hold(kept[:1])
    cache.release(kept)
    assert cache.free_tokens == 16
    cache.release(kept[:1])
    assert cache.free_tokens == 32
    other.free()
    assert cache.free_tokens == 64


def test_references_that_nobody_has_are_an_internal_error() -> None:
    cache = PagedKVCache(64, block_size=16)
    lease = cache.lease(16)
    assert lease is not None
    blocks = lease.block_ids
    lease.free()
    other = cache.lease(16)
    assert other is not None
    for wrong in (blocks.tolist() if blocks[0] != other.block_ids[0] else [3], [other.block_ids[0], 3], [-1], [4]):
        with pytest.raises(InternalError, match="is free, it cannot be held"):
            cache.hold(wrong)
    other.free()
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
