"""The CPU cache: what the CPU sees, what devices see, and when they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymodel.effects import FetchOr, Load, Store, run_untimed
from pymodel.host.cpu_cache import CpuCache
from pymodel.memory import PhysMem, SparseMem

A = 0x1000


def test_unsnooped_read_is_stale_until_the_line_is_written_back() -> None:
    memory = SparseMem({A: 1})
    cache = CpuCache(memory)
    cache.store(A, 2)
    assert (cache.load(A), cache.read_unsnooped(A), cache.is_dirty(A)) == (2, 1, True)
    cache.clwb(A)
    assert (cache.load(A), cache.read_unsnooped(A), cache.is_dirty(A)) == (2, 2, False)


def test_snooped_read_sees_the_dirty_line() -> None:
    cache = CpuCache(SparseMem({A: 1}))
    cache.store(A, 2)
    assert cache.read_snooped(A) == 2
    assert cache.read_snooped(A + 64) == 0


def test_unsnooped_write_leaves_a_stale_clean_line() -> None:
    cache = CpuCache(SparseMem({A: 1}))
    assert cache.load(A) == 1
    cache.write_unsnooped(A, 2)
    assert (cache.load(A), cache.read_unsnooped(A)) == (1, 2)
    cache.evict(A)
    assert cache.load(A) == 2


def test_unsnooped_write_under_a_dirty_line_is_lost() -> None:
    """The neighbour's word makes the line dirty; its write-back overwrites what the device wrote."""
    cache = CpuCache(SparseMem())
    cache.store(A + 8, 3)
    cache.write_unsnooped(A, 2)
    cache.wbinvd()
    assert (cache.load(A), cache.load(A + 8)) == (0, 3)


def test_snooped_write_keeps_the_neighbours_and_invalidates() -> None:
    cache = CpuCache(SparseMem())
    cache.store(A + 8, 3)
    cache.write_snooped(A, 2)
    assert (cache.load(A), cache.load(A + 8), cache.read_unsnooped(A + 8)) == (2, 3, 3)


def test_prefetched_line_is_stale_without_an_access() -> None:
    cache = CpuCache(SparseMem())
    cache.prefetch(A)
    cache.write_unsnooped(A, 2)
    assert cache.load(A) == 0
    cache.clflush(A)
    assert cache.load(A) == 2


def test_wbinvd_writes_all_back_and_empties_the_cache() -> None:
    memory = SparseMem()
    cache = CpuCache(memory)
    for line in range(4):
        cache.store(A + 64 * line, line + 1)
    assert cache.evictable() == tuple(A + 64 * line for line in range(4))
    cache.wbinvd()
    assert cache.evictable() == ()
    assert [memory.load(A + 64 * line) for line in range(4)] == [1, 2, 3, 4]


def test_agents_run_through_the_cache() -> None:
    def agent():  # type: ignore[no-untyped-def]
        yield Store(A, 6)
        yield FetchOr(A, 1)
        return (yield Load(A))

    memory = PhysMem()
    cache = CpuCache(memory)
    assert run_untimed(agent(), cache) == 7
    assert memory.load(A) == 0
    assert (cache.compare_exchange(A, 7, 9), cache.fetch_and(A, 8), cache.load(A)) == (7, 9, 8)
    assert (cache.compare_exchange(A, 7, 1), cache.load(A)) == (8, 8)


def test_snapshot_is_equal_for_equal_contents_only() -> None:
    one, other = CpuCache(SparseMem()), CpuCache(SparseMem())
    one.store(A, 1)
    one.load(A + 64)
    other.load(A + 64)
    other.store(A, 1)
    assert one.snapshot() == other.snapshot()
    assert hash(one.snapshot()) == hash(other.snapshot())
    other.clwb(A)
    assert one.snapshot() != other.snapshot()
    copy = one.copy(SparseMem())
    copy.store(A, 2)
    assert one.load(A) == 1
    assert copy.snapshot() != one.snapshot()


def test_cache_wrong() -> None:
    cache = CpuCache(SparseMem())
    with pytest.raises(KeyError, match="holds no line 0x1000"):
        cache.evict(A)
    with pytest.raises(ValueError, match="64 bits to a multiple of 8"):
        cache.store(A + 4, 1)
    with pytest.raises(ValueError, match="64 bits to a multiple of 8"):
        cache.store(A, 1 << 64)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "store", "dma_read", "dma_write", "clwb", "clflush", "wbinvd", "evict", "prefetch"]),
        st.integers(0, 23), st.integers(1, 99),
    ), max_size=60,
)  # fmt: skip


@given(STEPS)
def test_coherent_system_is_one_memory(steps: list[tuple[str, int, int]]) -> None:
    """Snooped accesses only: whatever leaves the cache, and when, everybody reads the last write."""
    cache, truth = CpuCache(SparseMem()), dict[int, int]()
    for name, index, value in steps:
        address = A + 8 * index
        if name in ("store", "dma_write"):
            (cache.store if name == "store" else cache.write_snooped)(address, value)
            truth[address] = value
        elif name in ("load", "dma_read"):
            read = cache.load if name == "load" else cache.read_snooped
            assert read(address) == truth.get(address, 0)
        elif name == "wbinvd":
            cache.wbinvd()
        elif name == "evict":
            for line in cache.evictable()[:1]:
                cache.evict(line)
        else:
            getattr(cache, name)(address)
    cache.wbinvd()
    assert all(cache.read_unsnooped(address) == value for address, value in truth.items())
