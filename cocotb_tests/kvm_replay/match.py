"""Holding the model's events against the records of one recording, in order; the first difference ends the replay.

Numbers of table pages differ between model and kernel: they are compared up to a renaming that maps live tables
one to one. Probes (`call`, `ret`) that the recording never shows were not set in that kernel and are left out;
entries, faults, exits and flushes are always compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecord
from pymodel.kvm.effects import KvmEffect, SpteChanged, Trace
from pymodel.kvm.spte import ADDRESS, pages
from pymodel.kvm.vm import Vm

__all__ = ["Divergence", "Matcher", "Mismatch", "show_record"]

_CORE = frozenset(
    ("spte", "page_fault", "fast_page_fault", "set_spte", "spte_requested", "split_huge_page", "mark_mmio_spte",
     "check_mmio_spte", "unmap_hva_range", "vmentry", "vmexit", "exit", "call kvm_flush_remote_tlbs", "get_page",
     "prepare_zap_page", "zap_all_fast", "call mark_page_dirty_in_slot", "set_spte_hva", "age_hva", "test_age_hva")
)  # fmt: skip
"""Always compared, whether or not the recording has such records."""
_IGNORED = frozenset(("mmio_page_fault", "status", "note"))
_BOOLEAN = frozenset(
    ("kvm_tdp_mmu_wrprot_slot", "kvm_tdp_mmu_write_protect_gfn", "kvm_tdp_mmu_unmap_gfn_range",
     "kvm_tdp_mmu_age_gfn_range", "kvm_tdp_mmu_test_age_gfn", "kvm_tdp_mmu_set_spte_gfn", "is_page_fault_stale")
)  # fmt: skip
"""Functions that return one byte; the rest of the register is left over."""
_STRICT = frozenset(
    ("call kvm_flush_remote_tlbs", "call mark_page_dirty_in_slot", "call kvm_tdp_mmu_map", "ret kvm_tdp_mmu_map",
     "ret is_page_fault_stale", "ret kvm_mmu_page_fault", "call kvm_tdp_mmu_unmap_gfn_range", "call tdp_mmu_link_sp",
     "ret kvm_tdp_mmu_unmap_gfn_range", "call svm_flush_tlb_all", "call svm_load_mmu_pgd")
)  # fmt: skip
"""Probes that no compiler hides at some of their places: they are what the rest follows from."""
_SOMETIMES = frozenset(("call kvm_mmu_unload",))
_WORD32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where model and recording part."""

    line: int
    step: str
    expected: str
    """The recording."""
    got: str
    """The model."""
    context: tuple[str, ...] = ()


class Mismatch(Exception):
    """The replay cannot go on."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(f"line {divergence.line}: recorded {divergence.expected}, model {divergence.got}")
        self.divergence = divergence


def _hex(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:x}"
    return str(value)


def show_record(record: KvmRecord) -> str:
    """A record as one readable line."""
    fields = " ".join(f"{key}={_hex(value)}" for key, value in record.fields.items())
    return f"{record.name} {fields}" + (f" n={record.count}" if record.count > 1 else "")


class Matcher:
    """The cursor over the records of a step, and the renaming of table pages."""

    def __init__(self, names: Iterable[str], *, known_build: bool = True) -> None:
        """`known_build`: a kernel whose inlined calls the model knows; for another one the lesser probes may miss."""
        self._compared = _CORE | {name for name in names if name.startswith(("call ", "ret "))}
        lesser = {name for name in self._compared if name.startswith(("call ", "ret "))} - _STRICT
        lesser = {name for name in lesser if "notifier" not in name and "zap_sp" not in name}
        self._optional = _SOMETIMES if known_build else frozenset(lesser) | _SOMETIMES
        self.records: list[KvmRecord] = []
        self.position = 0
        self.step = ""
        self.compared = 0
        self.vm: Vm | None = None
        self._part = 0
        self._theirs: dict[int, int] = {}
        self._ours: dict[int, int] = {}

    def load(self, records: Iterable[KvmRecord], step: str) -> None:
        """Begin a step; records that are never compared are left out."""
        self.records = [record for record in records if record.name in self._compared]
        self.position = self._part = 0
        self.step = step

    def peek(self) -> KvmRecord | None:
        """The record that comes next."""
        return self.records[self.position] if self.position < len(self.records) else None

    @property
    def inside(self) -> bool:
        """Whether the model is within a run of entries that changed alike."""
        return self._part > 0

    def take(self) -> KvmRecord:
        """Go over the next record."""
        record = self.records[self.position]
        self.position += 1
        return record

    def part(self, records: Iterable[KvmRecord]) -> "Matcher":
        """A cursor over some of the records, those of one task, with the same renaming."""
        other = Matcher(())
        other._compared, other._optional = self._compared, self._optional
        other._theirs, other._ours, other.vm = self._theirs, self._ours, self.vm
        other.load(records, self.step)
        return other

    def save(self) -> tuple[dict[int, int], dict[int, int]]:
        """The renaming as it is now."""
        return dict(self._theirs), dict(self._ours)

    def restore(self, saved: tuple[dict[int, int], dict[int, int]], vm: Vm | None) -> None:
        """Back to a renaming that was saved."""
        self._theirs, self._ours = dict(saved[0]), dict(saved[1])
        self.vm = vm

    def shows(self, effect: KvmEffect) -> bool:
        """Whether this effect is compared at all."""
        return isinstance(effect, SpteChanged) or (isinstance(effect, Trace) and effect.name in self._compared)

    def pass_over(self, effect: KvmEffect) -> bool:
        """Go over a record that only some builds show, if the model is not there; True if one was."""
        record = self.peek()
        if record is None or record.name not in self._optional or not self.shows(effect):
            return False
        if isinstance(effect, Trace) and effect.name == record.name:
            return False
        self.position += 1
        return True

    def event(self, effect: KvmEffect) -> None:
        """The model did this: it must be what the recording says. Raises `Mismatch`."""
        if isinstance(effect, SpteChanged):
            self._spte(effect)
        elif isinstance(effect, Trace) and effect.name in self._compared:
            self._trace(effect)

    def end(self) -> None:
        """The step is over: nothing may be left."""
        while (record := self.peek()) is not None and record.name in self._optional:
            self.position += 1
        if record is not None:
            self._fail(show_record(record), "nothing (the step is over)", record)

    def fail(self, expected: str, got: str, line: int) -> None:
        """Something outside the sequence of records differs."""
        raise Mismatch(Divergence(line, self.step, expected, got, self._context()))

    def _fail(self, expected: str, got: str, record: KvmRecord | None) -> None:
        line = record.line if record is not None else self.records[-1].line if self.records else 0
        raise Mismatch(Divergence(line, self.step, expected, got, self._context()))

    def _context(self) -> tuple[str, ...]:
        first = max(0, self.position - 6)
        return tuple(f"{one.line}: {show_record(one)}" for one in self.records[first : self.position])

    def _expect(self, name: str, got: str) -> KvmRecord:
        record = self.peek()
        if record is None:
            self._fail("nothing (the step is over)", got, None)
            raise AssertionError
        if record.name != name:
            self._fail(show_record(record), got, record)
        self.compared += 1
        return record

    def _spte(self, effect: SpteChanged) -> None:
        got = f"spte as_id={effect.as_id} gfn={effect.gfn:x} level={effect.level} old={effect.old:x} new={effect.new:x}"
        record = self._expect("spte", got)
        fields, level = record.fields, effect.level
        gfn = fields["gfn"] + self._part * pages(fields["level"])
        same = (effect.as_id, effect.gfn, level) == (fields["as_id"], gfn, fields["level"])
        same = same and self.same(effect.old, fields["old"], level)
        if not same or not self.same(effect.new, fields["new"], level):
            self._fail(show_record(record) + (f" (entry {self._part} of it)" if self._part else ""), got, record)
        self._part += 1
        if self._part == record.count:
            self._part = 0
            self.position += 1

    def same(self, ours: int, theirs: int, level: int) -> bool:
        """Whether two entries are equal up to the renaming of tables."""
        vm = self.vm
        if vm is None or not vm.fmt.is_table(ours, level):
            return ours == theirs
        if ours & ~ADDRESS != theirs & ~ADDRESS:
            return False
        return self.same_frame((ours & ADDRESS) >> 12, (theirs & ADDRESS) >> 12)

    def same_frame(self, ours: int, theirs: int) -> bool:
        """Whether two table pages are the same up to the renaming; a new one is learnt."""
        known = self._theirs.get(ours)
        if known is not None:
            return known == theirs
        owner = self._ours.get(theirs)
        if owner is not None and self.vm is not None and owner in self.vm.tables:
            return False
        self._theirs[ours] = theirs
        self._ours[theirs] = ours
        return True

    def _trace(self, effect: Trace) -> None:
        record = self.peek()
        if effect.name in self._optional and (record is None or record.name != effect.name):
            return
        got = effect.name + "".join(f" {key}={_hex(value)}" for key, value in effect.fields)
        record = self._expect(effect.name, got)
        for key, value in effect.fields:
            theirs = record.fields.get(key)
            if theirs is None:
                continue
            if not self._equal(effect.name, key, value, theirs):
                self._fail(show_record(record), got, record)
        self.position += 1

    def _equal(self, name: str, key: str, ours: int | str, theirs: Any) -> bool:
        if not isinstance(ours, int) or not isinstance(theirs, int):
            return bool(ours == theirs)
        if key == "root_hpa" and ours >> 12 in (self.vm.tables if self.vm else {}):
            return self.same_frame(ours >> 12, theirs >> 12)
        if name == "ret kvm_tdp_mmu_get_vcpu_root_hpa":
            return self.same_frame(ours >> 12, theirs >> 12)
        if name.startswith("ret "):
            mask = 0xFF if name[4:] in _BOOLEAN else _WORD32
            return ours & mask == theirs & mask
        return ours == theirs
