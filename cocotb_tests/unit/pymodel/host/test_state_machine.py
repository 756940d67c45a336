"""Random histories of a host with a guest, against an oracle that is a dictionary of words and permissions.

The oracle knows nothing of pages: a private word belongs to one process, a word of a file to all. After every step
the accounts of the host balance, and the guest's tables satisfy I1 to I5 and I7 of facts C12. No entry loses anything
outside an invalidation.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cocotb_tests.unit.pymodel.host.spy import Guard
from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, balance
from pymodel.host import aging, collapse, fork, gup, ksm, madvise, mapping, migrate, punch, reclaim, split
from pymodel.host.files import MemFile
from pymodel.host.frames import Folio
from pymodel.host.mprotect import mprotect
from pymodel.host.process import Process
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_7, V6_12, V6_13
from pymodel.machine import GuestError, Machine

REGIONS = {"anon4k": (A, 16), "thp": (A + 4 * HUGE, 1024), "memfd": (A + 8 * HUGE, 16), "alias": (A + 9 * HUGE, 16),
           "hugetlb2m": (A + 12 * HUGE, 512)}  # fmt: skip
"""Name -> (hva, 4K pages). The alias shows the file of memfd once more, from its fourth page on."""
ALIAS_SHIFT = 3 * PAGE
PLACES = [hva + page * PAGE for hva, count in REGIONS.values()
          for page in sorted({0, 1, 2, 5, count // 2, count - 1} & set(range(count)))]  # fmt: skip
FAMILY = 2
"""Children at a time; the hugetlb pool has a page for each and one to move to."""

places = st.sampled_from(PLACES)
values = st.integers(1, 1 << 32)
anonymous = st.sampled_from([place for place in PLACES if place < A + 8 * HUGE])


class HostHistory(RuleBasedStateMachine):
    """One machine and what its memory should hold."""

    @initialize(version=st.sampled_from([V6_1, V6_7, V6_12, V6_13]), with_ept=st.booleans())
    def start(self, version: Any, with_ept: bool) -> None:
        """All regions mapped and shown to the guest at gpa hva - A."""
        fmt = ept(suppress_ve_empty=version.suppress_ve_empty) if with_ept else None
        self.machine = Machine(version, fmt=fmt, frames=1 << 14, hugetlb={2: FAMILY + 2}, vcpus=2)
        self.machine.on_effect.append(self.machine.check_reuse)
        self.mm = self.machine.process
        self.machine.on_effect.append(Guard(self.mm).see)
        self.file = MemFile()
        for ident, (name, (hva, count)) in enumerate(REGIONS.items()):
            kind, file = ("memfd", self.file) if name in ("memfd", "alias") else (name, None)
            offset = ALIAS_SHIFT if name == "alias" else 0
            self.machine.run(mapping.mmap(self.mm, hva, count * PAGE, kind, file=file, offset=offset))
            self.machine.add_slot(ident, (hva - A) >> 12, count, hva)
        self.words: dict[tuple[Process | None, int], int] = {}
        self.read_only: set[int] = set()
        self.children: list[Process] = []
        self.pinned: dict[int, Folio] = {}

    # --- the oracle ----------------------------------------------------------------------------------------

    def key(self, mm: Process, hva: int) -> tuple[Process | None, int]:
        """Where the oracle keeps a word: files under no process, by their offset."""
        for name, shift in (("memfd", 0), ("alias", ALIAS_SHIFT)):
            start, count = REGIONS[name]
            if start <= hva < start + count * PAGE:
                return None, hva - start + shift
        return mm, hva

    def value(self, mm: Process, hva: int) -> int:
        """What a load should give."""
        return self.words.get(self.key(mm, hva), 0)

    def forget(self, mm: Process | None, start: int, end: int) -> None:
        """The words of a range are zero again."""
        for owner, address in list(self.words):
            if owner is mm and start <= address < end:
                del self.words[owner, address]

    def run(self, agent: Any) -> Any:
        """Run an agent on the machine."""
        return self.machine.run(agent)

    def folios(self, chosen: list[int]) -> list[Folio]:
        """The pages behind addresses."""
        found: dict[Folio, None] = {}
        for hva in chosen:
            entry = self.mm.table.lookup(hva)
            folio = None if entry is None else self.mm.folio_at(entry.hva, entry.level)
            if folio is not None:
                found[folio] = None
        return list(found)

    # --- accesses ------------------------------------------------------------------------------------------

    @rule(hva=places, value=values, vcpu=st.integers(0, 1))
    def guest_writes(self, hva: int, value: int, vcpu: int) -> None:
        """Allowed unless the process may not write there."""
        if hva in self.read_only:
            with pytest.raises(GuestError):
                self.machine.write(hva - A, value, vcpu)
        else:
            self.machine.write(hva - A, value, vcpu)
            self.words[self.key(self.mm, hva)] = value

    @rule(hva=places, vcpu=st.integers(0, 1))
    def guest_reads(self, hva: int, vcpu: int) -> None:
        """Always allowed here."""
        assert self.machine.read(hva - A, vcpu) == self.value(self.mm, hva)

    @rule(hva=places, value=values)
    def process_writes(self, hva: int, value: int) -> None:
        """As the guest."""
        if hva in self.read_only:
            with pytest.raises(gup.Signal):
                self.machine.store(hva, value)
        else:
            self.machine.store(hva, value)
            self.words[self.key(self.mm, hva)] = value

    @rule(hva=places)
    def process_reads(self, hva: int) -> None:
        """As the guest."""
        assert self.machine.load(hva) == self.value(self.mm, hva)

    @precondition(lambda self: self.children)
    @rule(hva=places, value=values, data=st.data())
    def child_writes_and_all_read(self, hva: int, value: int, data: st.DataObject) -> None:
        """Private words stay apart."""
        child = data.draw(st.sampled_from(self.children))
        vma = child.vmas.find(hva)
        assert vma is not None
        if vma.write:
            self.run(gup.store(child, hva, value))
            self.words[self.key(child, hva)] = value
        for mm in (self.mm, *self.children):
            assert self.run(gup.load(mm, hva)) == self.value(mm, hva)

    # --- what may change contents or permissions -----------------------------------------------------------

    @rule(hva=places, count=st.integers(1, 4))
    def drop(self, hva: int, count: int) -> None:
        """MADV_DONTNEED: private words are zero, those of a file stay; hugetlb only whole pages."""
        name, (start, pages) = next(item for item in REGIONS.items() if hva < item[1][0] + item[1][1] * PAGE)
        if name == "hugetlb2m":
            hva, count = start, pages
        end = min(hva + count * PAGE, start + pages * PAGE)
        self.run(madvise.dont_need(self.mm, hva, end - hva))
        self.forget(self.mm, hva, end)
        for pinned in [place for place in self.pinned if hva <= place < end]:
            self.release(pinned)

    @rule(page=st.integers(0, 15), count=st.integers(1, 4))
    def punch_hole(self, page: int, count: int) -> None:
        """For every process."""
        self.run(punch.punch_hole(self.machine.host, self.file, page * PAGE, count * PAGE))
        self.forget(None, page * PAGE, (page + count) * PAGE)
        for pinned in [place for place in self.pinned if self.key(self.mm, place)[0] is None]:
            self.release(pinned)

    @rule(hva=places, write=st.booleans())
    def protect(self, hva: int, write: bool) -> None:
        """One page, a whole one of hugetlb."""
        start, pages = REGIONS["hugetlb2m"]
        low, high = (start, start + pages * PAGE) if hva >= start else (hva, hva + PAGE)
        self.run(mprotect(self.mm, low, high - low, write=write))
        touched = {place for place in PLACES if low <= place < high}
        self.read_only = self.read_only - touched if write else self.read_only | touched

    @precondition(lambda self: len(self.children) < FAMILY)
    @rule()
    def fork(self) -> None:
        """The child has the same private words."""
        child = self.run(fork.fork(self.mm))
        self.words.update({(child, hva): value for (mm, hva), value in self.words.items() if mm is self.mm})
        self.children.append(child)

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def child_exits(self, data: st.DataObject) -> None:
        """Any child."""
        child = data.draw(st.sampled_from(self.children))
        self.children.remove(child)
        self.run(mapping.exit_process(child))
        self.forget(child, 0, 1 << 47)

    @rule(hva=places, write=st.booleans())
    def pin(self, hva: int, write: bool) -> None:
        """A device gets the page."""
        if hva in self.pinned or (write and hva in self.read_only):
            return
        self.pinned[hva] = self.run(gup.pin_user_page(self.mm, hva, write=write))

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        """The device gives it back."""
        self.release(data.draw(st.sampled_from(sorted(self.pinned))))

    def release(self, hva: int) -> None:
        """unpin."""
        self.run(gup.unpin(self.mm, self.pinned.pop(hva)))

    # --- what nobody may see -------------------------------------------------------------------------------

    @rule(hva=places)
    def migrate(self, hva: int) -> None:
        """The whole page."""
        self.run(migrate.move_page(self.mm, hva))

    @rule(chosen=st.lists(places, min_size=1, max_size=6), ages=st.booleans())
    def reclaim(self, chosen: list[int], ages: bool) -> None:
        """Any pages, of this process or shared."""
        self.run(reclaim.reclaim(self.machine.host, self.folios(chosen), ages=ages))

    @rule(hva=anonymous, count=st.integers(1, 20))
    def page_out(self, hva: int, count: int) -> None:
        """MADV_PAGEOUT."""
        start, pages = REGIONS["thp" if hva >= REGIONS["thp"][0] else "anon4k"]
        self.run(madvise.page_out(self.mm, hva, min(hva + count * PAGE, start + pages * PAGE) - hva))

    @rule(hva=places, advice=st.sampled_from([madvise.cold, None]))
    def age(self, hva: int, advice: Callable[[Process, int, int], Any] | None) -> None:
        """MADV_COLD, which hugetlb memory refuses, or DAMON."""
        vma = self.mm.vmas.find(hva)
        if advice is not None and vma is not None and vma.pool is None:
            self.run(advice(self.mm, hva, PAGE))
        else:
            self.run(aging.make_old(self.mm, hva))
            assert not self.run(aging.was_accessed(self.mm, hva))

    @rule()
    def collapse(self) -> None:
        """Both huge pages of the region, as far as they can be."""
        start, pages = REGIONS["thp"]
        self.run(collapse.collapse(self.mm, start, pages * PAGE))

    @rule(hva=anonymous, whole=st.booleans())
    def split(self, hva: int, whole: bool) -> None:
        """Entry or page."""
        if whole:
            for folio in self.folios([hva]):
                self.run(split.split_folio(self.machine.host, folio))
        elif self.mm.huge_entry(hva) is not None:
            self.run(split.split_entry(self.mm, hva))
        self.run(split.shrink_deferred(self.machine.host))

    @rule(chosen=st.lists(anonymous, min_size=2, max_size=5, unique=True), value=st.sampled_from([None, 7]))
    def merge(self, chosen: list[int], value: int | None) -> None:
        """KSM over some pages, made equal before that or not."""
        for hva in chosen:
            if value is not None and hva not in self.read_only:
                self.machine.store(hva, value)
                self.words[self.mm, hva] = value
        for name in ("anon4k", "thp"):
            start, pages = REGIONS[name]
            self.run(madvise.mergeable(self.mm, start, pages * PAGE))
        self.run(ksm.scan(self.machine.host, [(self.mm, hva) for hva in chosen]))

    @rule()
    def unmerge(self) -> None:
        """Every shared page becomes private again."""
        start, pages = REGIONS["anon4k"]
        self.run(madvise.unmergeable(self.mm, start, pages * PAGE))

    @rule(hva=places, write=st.booleans())
    def populate(self, hva: int, write: bool) -> None:
        """MADV_POPULATE."""
        if not (write and hva in self.read_only):
            self.run(gup.populate(self.mm, hva, PAGE, write=write))

    @rule(huge=st.booleans())
    def advise_huge(self, huge: bool) -> None:
        """For the next fault in the second half of the region."""
        start, _ = REGIONS["thp"]
        self.run((madvise.huge_page if huge else madvise.no_huge_page)(self.mm, start + HUGE, HUGE))

    # --- what always holds ---------------------------------------------------------------------------------

    @invariant()
    def accounts_balance_and_tables_are_sound(self) -> None:
        """References, reverse map, swap, reservations; I1 to I5 and I7; pinned pages stay where they are."""
        if hasattr(self, "machine"):
            balance(self.machine.host, [self.file], self.machine.vm.tables)
            self.machine.check()
            for hva, folio in self.pinned.items():
                assert self.folios([hva]) in ([folio], []), f"the pinned page of {hva:#x} was replaced"

    def teardown(self) -> None:
        """Every word of everybody, and then nothing is left."""
        if not hasattr(self, "machine"):
            return
        for hva in PLACES:
            assert self.machine.read(hva - A) == self.value(self.mm, hva)
            for mm in (self.mm, *self.children):
                assert self.run(gup.load(mm, hva)) == self.value(mm, hva)
        for hva in list(self.pinned):
            self.release(hva)
        for mm in (*self.children, self.mm):
            self.run(mapping.exit_process(mm))
        self.run(punch.punch_hole(self.machine.host, self.file, 0, 32 * PAGE))
        host = self.machine.host
        assert host.swap.used == 0
        zeros = 1 + (512 if host.huge_zero is not None else 0)
        pools = sum(pool.total << 9 * (pool.level - 1) for pool in host.pools.values())
        assert host.frames.count - host.frames.free_count == zeros + pools + len(self.machine.vm.tables)


TestHostHistory = HostHistory.TestCase
TestHostHistory.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
