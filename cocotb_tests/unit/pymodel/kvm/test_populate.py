"""Bulk population leaves exactly what faulting page by page through the agents leaves."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.populate_guest import NPAGES, Guest
from cocotb_tests.unit.pymodel.kvm.support import FETCH, HVA, READ, WRITE
from pymodel.kvm import dirty, notifier, roots, slot_ops
from pymodel.kvm.attributes import set_private
from pymodel.kvm.effects import HostFault, HostPage, KvmEffect, run_kvm
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memory_type import register_noncoherent, set_mtrrs
from pymodel.kvm.memslots import GUEST_MEMFD, LOG_DIRTY, READONLY, Memslot
from pymodel.kvm.populate import Populated, populate
from pymodel.kvm.spte import SpteFormat, ept, npt
from pymodel.kvm.version import V6_1, V6_12, V6_13, KvmVersion
from pymodel.kvm.vm import Vcpu, Vm
from pymodel.kvm.write_track import track_writes
from pymodel.memory import PhysMem


def _prepared(guest: Guest, seed: int) -> None:
    """Some pages are mapped before, some zapped again, one is aged away."""
    rng = random.Random(seed + 1)
    for _ in range(rng.randrange(12)):
        gfn = rng.randrange(NPAGES)
        guest.one_by_one(gfn, gfn + 1, rng.choice((READ, WRITE, FETCH)))
        if rng.random() < 0.4:
            first = HVA + (rng.randrange(NPAGES) << 12)
            guest.run(notifier.invalidate_range_start(guest.vm, first, first + 0x5000))
            guest.run(notifier.invalidate_range_end(guest.vm, first, first + 0x5000))
        if rng.random() < 0.3:
            guest.remap(gfn // 512, rng.choice((1, 2)))
    guest.run(notifier.clear_young(guest.vm, HVA, HVA + 0x40000))


def _cases() -> list[Any]:
    formats: list[tuple[str, Callable[[KvmVersion], SpteFormat]]] = [
        ("npt", lambda version: npt(suppress_ve_empty=version.suppress_ve_empty)),
        ("ept", lambda version: ept(suppress_ve_empty=version.suppress_ve_empty)),
        (
            "ept without A/D",
            lambda version: ept(
                suppress_ve_empty=version.suppress_ve_empty, ad_enabled=False, software_ad=version.software_ad
            ),
        ),
    ]
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "NX huge pages": {"nx_huge_pages": True},
        "logged": {"flags": LOG_DIRTY},
        "dirty ring": {"flags": LOG_DIRTY, "dirty_ring_size": 8192},
        "read-only": {"flags": READONLY},
        "2M at most": {"max_level": 2},
        "5 levels": {"root_level": 5},
        "gfn and hva apart": {"shift": 3},
    }
    return [
        pytest.param(version, make(version), settings, id=f"{version.name}-{name}-{kind}")
        for version in (V6_1, V6_12, V6_13)
        for name, make in formats
        for kind, settings in kinds.items()
    ]


@pytest.mark.parametrize(("version", "fmt", "settings"), _cases())
def test_population_equals_the_agents(version: KvmVersion, fmt: SpteFormat, settings: dict[str, Any]) -> None:
    """Random layouts, holes and mapped pages; words, tables, frame numbers, NX list and dirty log are the same."""
    seed = len(fmt.name) + len(str(settings))
    slow, fast = Guest(version, seed, fmt, **settings), Guest(version, seed, fmt, **settings)
    rng = random.Random(seed)
    for guest in (slow, fast):
        _prepared(guest, seed)
    assert slow.picture() == fast.picture()
    errors = (READ, FETCH) if settings.get("flags") == READONLY else (WRITE, READ, FETCH)
    for _ in range(3):
        start = rng.randrange(NPAGES - 1)
        end = rng.randrange(start + 1, NPAGES + 1)
        error = rng.choice(errors)
        slow.one_by_one(start, end, error)
        done = fast.populate(start, end, error)
        assert slow.picture() == fast.picture()
        assert done.bulk + done.present + done.refused <= end - start


def _pair(version: KvmVersion = V6_12, **settings: Any) -> tuple[Guest, Guest]:
    return Guest(version, 7, **settings), Guest(version, 7, **settings)


@pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: str(version.name))
def test_pages_split_for_execution_stay_small_for_data(version: KvmVersion) -> None:
    """Tables that the NX mitigation made are kept, and listed once, in the same order."""
    slow, fast = _pair(version, nx_huge_pages=True)
    for start, end, error in ((100, 3000, FETCH), (0, NPAGES, WRITE)):
        slow.one_by_one(start, end, error)
        fast.populate(start, end, error)
        assert slow.picture() == fast.picture()
    assert fast.vm.possible_nx


def test_huge_page_replaces_the_empty_table_of_small_ones() -> None:
    """The host collapsed a piece after its 4K pages were taken away: one fault, table to leaf, as the agents do."""
    slow, fast = _pair()
    for guest in (slow, fast):
        guest.levels[2] = 1
        guest.populate(1024, 1536, WRITE)
        guest.remap(2, 2)
    slow.one_by_one(1024, 1536, WRITE)
    done = fast.populate(1024, 1536, WRITE)
    assert slow.picture() == fast.picture()
    assert (done.faults, done.bulk, fast.entry(1024)[0]) == (1, 0, 2)


def test_private_memory_with_its_own_page_sizes() -> None:
    """guest_memfd: mixed pieces stay 4K, the folio limits the rest; what does not fit the attributes is refused."""
    slow, fast = _pair(flags=GUEST_MEMFD)
    for guest in (slow, fast):
        guest.run(set_private(guest.vm, 700, 2600, private=True))
    slow.one_by_one(0, NPAGES, WRITE)
    fast.populate(0, NPAGES, WRITE)
    assert slow.picture() == fast.picture()
    assert any(one.private for one in fast.asked)


@pytest.mark.parametrize(
    "settings", [{"max_level": 1}, {"flags": GUEST_MEMFD, "hardware_private": True}], ids=["memslot", "guest"]
)
def test_private_pages_that_nobody_asked_for_stay_empty(settings: dict[str, Any]) -> None:
    """No guest_memfd behind the slot, or a guest that asks for shared memory: each such page is a memory fault."""
    slow, fast = _pair(**settings)
    for guest in (slow, fast):
        guest.levels = [1] * len(guest.levels)
        guest.populate(0, 1500, WRITE)
        guest.run(set_private(guest.vm, 512, 1024, private=True))
    slow.one_by_one(0, NPAGES, WRITE)
    done = fast.populate(0, NPAGES, WRITE)
    assert slow.picture() == fast.picture()
    assert done.refused >= 512


@pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: str(version.name))
def test_memory_types_of_a_guest_with_a_device_that_does_not_snoop(version: KvmVersion) -> None:
    """EPT: each page has the type that the guest gave it, pages whose types differ are small; 6.12 ignores MTRRs."""
    fmt = ept(suppress_ve_empty=version.suppress_ve_empty)
    slow, fast = Guest(version, 7, fmt), Guest(version, 7, fmt)
    for guest in (slow, fast):
        guest.run(register_noncoherent(guest.vm))
        guest.run(set_mtrrs(guest.vm, guest.vcpu, [(5, 9, 0), (700, 1800, 1), (2048, 2560, 4), (2100, 2101, 0)]))
    slow.one_by_one(0, NPAGES, WRITE)
    fast.populate(0, NPAGES, WRITE)
    assert slow.picture() == fast.picture()
    types = {fast.entry(gfn)[1] >> 3 & 7 for gfn in (6, 10, 701, 2049, 2100) if gfn not in fast.odd}
    assert (len(types) > 1) is version.guest_memory_type


def test_system_management_mode_has_slots_and_tables_of_its_own() -> None:
    """Address space 1: the range is looked up there, its root is another, the log of slot 0 stays empty."""
    slow, fast = _pair(flags=LOG_DIRTY)
    for guest in (slow, fast):
        guest.levels = [1] * len(guest.levels)
        guest.run(slot_ops.create(guest.vm, Memslot(0, 64, 600, HVA + (1000 << 12), 0, as_id=1)))
        guest.populate(60, 70, WRITE)
        guest.vcpu.as_id, guest.vcpu.root = 1, None
        guest.run(roots.prepare_entry(guest.vm, guest.vcpu))
    before = set(fast.picture()["dirty"])
    with pytest.raises(ValueError, match="must be a range inside one memslot, not 0x3c"):
        fast.populate(60, 70, WRITE)
    slow.one_by_one(64, 664, WRITE)
    fast.populate(64, 664, WRITE)
    assert slow.picture() == fast.picture()
    assert fast.picture()["dirty"] == before
    assert fast.vm.fmt.pfn(fast.entry(64)[1]) == fast.pfn(1000)


def test_write_tracked_pages_are_mapped_read_only() -> None:
    slow, fast = _pair()
    for guest in (slow, fast):
        for gfn in (5, 600, 3000):
            guest.run(track_writes(guest.vm, gfn))
    slow.one_by_one(0, NPAGES, WRITE)
    fast.populate(0, NPAGES, WRITE)
    assert slow.picture() == fast.picture()


def test_pages_that_were_write_protected_take_the_fast_path() -> None:
    """The log was read, and A cleared: every 4K entry lost W; writing gives W back, not A, and logs the page."""
    slow, fast = _pair(flags=LOG_DIRTY)
    for guest in (slow, fast):
        guest.populate(0, 1200, WRITE)
        slot = guest.vm.slots.get(0)
        assert slot is not None
        guest.run(dirty.get_dirty_log(guest.vm, slot))
        guest.run(notifier.clear_young(guest.vm, HVA, HVA + (1200 << 12)))
        assert not slot.dirty
    slow.one_by_one(0, NPAGES, WRITE)
    done = fast.populate(0, NPAGES, WRITE)
    assert slow.picture() == fast.picture()
    assert done.faults > 1100


def _zap_around(guest: Guest, every: int) -> Callable[[HostFault], None]:
    """A lookup of each page number that `every` divides makes the host move it and its neighbours, once."""
    seen: set[int] = set()

    def zap(effect: HostFault) -> None:
        if effect.hva >> 12 & every - 1 == 0 and effect.hva not in seen:
            seen.add(effect.hva)
            first, last = max(HVA, effect.hva - 0x3000), effect.hva + 0x2000
            guest.run(notifier.invalidate_range_start(guest.vm, first, last))
            guest.moved |= set(range(first - HVA >> 12, last - HVA >> 12))
            guest.run(notifier.invalidate_range_end(guest.vm, first, last))

    return zap


def test_lookup_that_causes_a_notifier_call_maps_nothing_stale() -> None:
    """What was looked up before the call is looked up again, by agents; no page is asked for more than three times."""
    slow, fast = _pair()
    for guest in (slow, fast):
        guest.levels, guest.odd = [1] * len(guest.levels), {}
        guest.on_lookup = _zap_around(guest, 128)
    slow.one_by_one(0, 2000, WRITE)
    done = fast.populate(0, 2000, WRITE)
    assert done.faults > 512, "agents took the pages up to each call"
    assert max(Counter(fast.asked).values()) <= 3
    for guest in (slow, fast):
        guest.populate(0, 2000, WRITE)
        pfns = [guest.vm.fmt.pfn(guest.entry(gfn)[1]) for gfn in range(2000)]
        assert pfns == [guest.pfn(page) for page in range(2000)]
    assert slow.moved == fast.moved


def test_fault_of_another_vcpu_during_a_lookup_is_not_overwritten() -> None:
    """Its entry stays as it made it; only what was looked up after it is written."""
    fast = _pair()[1]
    fast.levels, fast.odd = [1] * len(fast.levels), {}
    other = Vcpu(1)
    fast.vm.vcpus.append(other)
    fast.run(roots.prepare_entry(fast.vm, other))
    found: list[int] = []

    def race(effect: HostFault) -> None:
        if effect.hva == HVA + (20 << 12) and not found:
            found.append(0)
            fast.run(page_fault(fast.vm, other, 40 << 12, FETCH))
            fast.run(notifier.clear_young(fast.vm, HVA + (40 << 12), HVA + (41 << 12)))
            found[0] = fast.entry(40)[1]

    fast.on_lookup = race
    fast.populate(0, 600, WRITE)
    assert fast.entry(40) == (1, found[0])
    assert fast.entry(41)[1] & ~fast.vm.fmt.accessed != fast.entry(41)[1], "others are young"


@pytest.mark.parametrize("empty_table", [False, True], ids=["mapped", "empty"])
def test_root_that_dies_during_a_lookup_is_left(empty_table: bool) -> None:
    """Deleting another slot ends all roots: nothing is written to a freed table, the range is mapped in the new one."""
    guest = Guest(V6_1, 7)
    guest.levels, guest.odd = [1] * len(guest.levels), {}
    guest.run(slot_ops.create(guest.vm, Memslot(1, 1 << 16, 16, HVA + (1 << 30), 0)))
    freed: list[int] = []
    guest.released = freed.append
    if empty_table:
        guest.one_by_one(0, 1, WRITE)
        guest.remap(0, 1)

    def drop(effect: HostFault) -> None:
        if effect.hva == HVA + (20 << 12) and guest.vm.slots.get(1) is not None:
            guest.run(slot_ops.delete(guest.vm, 1))

    guest.on_lookup = drop
    guest.populate(0, 600, WRITE)
    assert len(freed) == 4
    for frame in freed:
        words = guest.memory.page_words(frame << 12)
        assert words is None or not words.any()
    lost = 0 if empty_table else 1  # the page that the old root mapped before the lookup
    assert [guest.entry(gfn)[1] & 1 for gfn in range(600)] == [0] * lost + [1] * (600 - lost)


def test_entries_of_a_time_without_the_slot_are_checked_as_mmio() -> None:
    """The access meets a reserved bit, KVM compares generations, then maps the page."""
    guest = Guest(V6_12, 7)
    guest.levels = [1] * len(guest.levels)
    gfn = NPAGES + 3
    assert guest.run(page_fault(guest.vm, guest.vcpu, gfn << 12, WRITE)).emulate
    guest.run(slot_ops.create(guest.vm, Memslot(1, NPAGES, 8, HVA + (NPAGES << 12), 0)))
    guest.traces.clear()
    guest.populate(NPAGES, NPAGES + 8, WRITE)
    checked = [dict(one.fields) for one in guest.traces if one.name == "check_mmio_spte"]
    assert [one["valid"] for one in checked] == [0]
    assert guest.vm.fmt.is_present(guest.entry(gfn)[1])


def test_wrong_ranges_and_moments_are_refused() -> None:
    guest = Guest(V6_12, 1)
    for start, end in ((NPAGES, NPAGES + 1), (0, NPAGES + 1), (5, 5), (9, 3)):
        with pytest.raises(ValueError, match=f"must be a range inside one memslot, not {start:#x}..{end:#x}"):
            guest.populate(start, end, WRITE)
    with pytest.raises(ValueError, match="read-only memslot 0, not 0x1000"):
        Guest(V6_12, 1, flags=READONLY).populate(0, 5, WRITE)
    guest.run(notifier.invalidate_range_start(guest.vm, HVA, HVA + 4096))
    with pytest.raises(ValueError, match="while an invalidation is in progress"):
        guest.populate(0, 5, WRITE)


def _counted(gib: int, level: int) -> tuple[Populated, Vm, PhysMem]:
    memory, frames = PhysMem(), iter(range(0x1000, 0x100000))

    class Uniform:
        def mapping_level(self, slot: Memslot, gfn: int) -> int:
            return level

    def handle(effect: KvmEffect) -> HostPage | None:
        return HostPage(0x4000_0000 + (effect.hva >> 12), True) if isinstance(effect, HostFault) else None

    vm, vcpu = Vm(V6_12, Uniform(), lambda: next(frames)), Vcpu(0)
    vm.vcpus.append(vcpu)
    run_kvm(slot_ops.create(vm, Memslot(0, 0, gib << 18, 0, 0)), memory, handle)
    return populate(vm, vcpu, memory, handle, 0, gib << 18), vm, memory


@pytest.mark.parametrize(
    ("gib", "level", "faults", "tables"),
    [(1, 1, 512, 1 + 1 + 1 + 512), (16, 2, 16 * 512, 1 + 1 + 16), (64, 3, 64, 1 + 1)],
    ids=["1 GiB of 4K", "16 GiB of 2M", "64 GiB of 1G"],
)
def test_cost_and_memory_follow_the_tables(gib: int, level: int, faults: int, tables: int) -> None:
    """Agents run once for a table of 4K entries or for a huge leaf; memory holds the tables and nothing else."""
    done, vm, memory = _counted(gib, level)
    assert done.faults == faults
    bulk = 0 if level > 1 else (gib << 18) - faults
    assert done.bulk == bulk
    assert len(vm.tables) == tables
    assert set(memory.pages()) == {frame << 12 for frame in vm.tables}
