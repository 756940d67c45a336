"""Plays a recording's steps on a whole machine: what the host does by itself, without the recorded tables and calls.

What the primary MMU of the recorded kernel did is compared with what the model's did: its page tables after each
step, the notifier calls of each step, what the guest read, whether an access or a call was refused. Frame numbers are
compared up to a renaming that is one to one at any time. Taken from the recording is only what depends on its timing:
which pages reclaim looked at, in which order, and in which order two vCPUs faulted.
"""

from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecord, KvmRecording
from cocotb_tests.unit.pymodel.host.spy import Call, Guard, Spy
from pymodel.host import collapse, fork, ksm, madvise, mapping, migrate, reclaim
from pymodel.host.files import MemFile
from pymodel.host.kernel import HostKernel
from pymodel.host.mprotect import mprotect
from pymodel.host.page_table import HostEntry, HostPageTable
from pymodel.host.process import Process
from pymodel.kvm import slot_ops
from pymodel.kvm.fault import prefault
from pymodel.kvm.roots import prepare_entry
from pymodel.kvm.version import version_for
from pymodel.machine import GuestError, Machine

_COMPARED = 1 | 2 | 4 | 1 << 7 | 1 << 9 | 1 << 63
"""P, W, U, PS, special, NX. A and D depend on accesses that the recording does not list."""
_NOT_OF_HOST = frozenset(
    ("create_vm", "create_vcpus", "enable_cap", "set_sregs", "get_dirty_log", "clear_dirty_log", "host_set",
     "destroy_vm", "end_of_scenario")
)  # fmt: skip
"""Steps in which the primary MMU has nothing to do."""
_UNKNOWN = 1 << 16
"""In the place of a byte that the recording does not tell: what host_write, host_fill and guest_rmw store."""


class Player:
    """One recording on one machine; `steps` and `differences` say what was compared and what was not equal."""

    def __init__(
        self, recording: KvmRecording, kernel: HostKernel | None = None, untold: frozenset[int] = frozenset()
    ) -> None:
        """`kernel`: another host than the recorded one. `untold`: slots that the recorder writes to by itself."""
        records = recording.records
        regions = [record.fields for record in records if record.name == "op" and record.fields["op"] == "host_region"]
        self._inside = [(one["hva"], one["hva"] + one["len"]) for one in regions if one["name"] != "ctrl"]
        self._untold = untold | {0}
        """The first slot holds the guest's code, which the model has no need of."""
        gigabytes = sum(1 for one in regions if one["kind"] == "hugetlb1g")
        huge = 32 if any(one["kind"] == "hugetlb2m" for one in regions) else 0
        frames = (1 << 16) + (gigabytes << 18) + huge * 512
        pools = {level: count for level, count in ((2, huge), (3, gigabytes)) if count}
        version = version_for(recording.header.kernel)
        self.machine = Machine(version, kernel=kernel, base=1 << 18, frames=frames, hugetlb=pools)
        self.machine.on_effect.append(self.machine.check_reuse)
        self.spy = Spy()
        self.machine.process.notifiers.insert(0, self.spy)
        self.guard = Guard(self.machine.process)
        self.machine.on_effect.append(self.guard.see)
        self._records = records
        self._children: list[Process] = []
        self._ksm: list[tuple[Process, int]] = []
        self.tables: dict[int, HostPageTable] = {}
        self._wanted: list[Call] = []
        self._result: dict[str, Any] = {}
        self._refused = False
        self.steps = self.calls = self.reads = 0
        self.differences: list[str] = []

    def play(self, *, invariants: bool = True) -> None:
        """All steps; the machine's `invariants` are checked after each. Raises `AssertionError`."""
        starts = [index for index, record in enumerate(self._records) if record.name == "op"]
        others: list[KvmRecord] = []
        for start, end in zip(starts, [*starts[1:], len(self._records)]):
            op, records = self._records[start], self._records[start + 1 : end]
            if not records and "vcpu" in op.fields:
                others.append(op)
            else:
                self._step(op, records, others)
                others = []
                if invariants:
                    self.machine.check()

    def _step(self, op: KvmRecord, records: list[KvmRecord], others: list[KvmRecord]) -> None:
        """`others`: steps of other vCPUs at the same time."""
        self.spy.calls.clear()
        self._wanted = [call for record in records if (call := _call(record)) is not None and self._concerns(call)]
        self._result = next((record.fields for record in records if record.name == "end"), {})
        self._refused = False
        if others:
            self._faults(records)
        for each in (*others, op):
            if each.fields["op"] not in _NOT_OF_HOST:
                getattr(self, "_" + each.fields["op"])(each.fields)
        if op.fields["op"] in ("destroy_vm", "end_of_scenario"):
            return
        self.steps += 1
        self.calls += len(self._wanted)
        if self._wanted != self.spy.calls:
            self._differ(op.fields, f"recorded {_text(self._wanted)}\n  model    {_text(self.spy.calls)}")
        if "vcpu" in op.fields and self._refused != any(record.name == "exit" for record in records):
            self._differ(op.fields, f"access {'refused' if self._refused else 'allowed'} by the model only")
        for record in records:
            if record.name == "host_pt":
                self._compare_tables(op, record)

    def _differ(self, op: dict[str, Any], text: str) -> None:
        self.differences.append(f"step {self.steps} {op}:\n  {text}")

    def _faults(self, records: list[KvmRecord]) -> None:
        """What several vCPUs did at once, in the order of their faults."""
        for record in records:
            if record.name == "page_fault":
                slot = self.machine.vm.slots.find(record.fields["addr"] >> 12)
                if slot is not None and slot.ident not in self._untold:
                    self._access(record.fields["addr"], "write" if record.fields["err"] & 2 else "read", _UNKNOWN)

    def _concerns(self, call: Call) -> bool:
        return any(start <= call[1] < end for start, end in self._inside)

    def _compare_tables(self, op: KvmRecord, record: KvmRecord) -> None:
        for slot, level, hva, count in record.fields.get("del", []):
            for index in range(count):
                self.tables[slot].clear(level, hva + (index << 12 + 9 * (level - 1)))
        for slot, level, hva, count, value in record.fields.get("set", []):
            for index in range(count):
                size = 1 << 12 + 9 * (level - 1)
                self.tables.setdefault(slot, HostPageTable()).set(level, hva + index * size, value + index * size)
        theirs: dict[int, int] = {}
        ours: dict[int, int] = {}
        for slot in self.machine.vm.slots:
            start, end = slot.hva, slot.hva + (slot.npages << 12)
            if slot.ident in self._untold:
                continue
            recorded = {(entry.hva, entry.level): entry
                        for entry in self.tables.get(slot.ident, HostPageTable()).leaves(start, end)}  # fmt: skip
            model = {(entry.hva, entry.level): entry for entry in self.machine.process.table.leaves(start, end)}
            for place in sorted(recorded.keys() | model.keys()):
                text = _compare(recorded.get(place), model.get(place), theirs, ours)
                if text:
                    self._differ(op.fields, f"hva {place[0]:#x} level {place[1]}: {text}")
                    break

    # --- steps ---------------------------------------------------------------------------------------------

    def _host_region(self, op: dict[str, Any]) -> None:
        kind = str(op["kind"])
        file = MemFile() if kind == "memfd" else None
        self.machine.run(mapping.mmap(self.machine.process, op["hva"], op["len"], kind, file=file))
        if kind == "anon4k":
            self.machine.run(madvise.no_huge_page(self.machine.process, op["hva"], op["len"]))

    def _host_mmap_fixed(self, op: dict[str, Any]) -> None:
        self.machine.run(mapping.mmap(self.machine.process, op["hva"], op["len"], str(op["kind"]),
                                      write=op["prot"] == "rw"))  # fmt: skip

    def _host_munmap(self, op: dict[str, Any]) -> None:
        self.machine.run(mapping.munmap(self.machine.process, op["hva"], op["len"]))

    def _host_mremap(self, op: dict[str, Any]) -> None:
        self.machine.run(mapping.mremap(self.machine.process, op["hva"], op["len"], op["to"]))

    def _memslot(self, op: dict[str, Any]) -> None:
        vm = self.machine.vm
        if op["change"] == "create":
            self.machine.add_slot(op["slot"], op["base_gfn"], op["npages"], op["hva"], op["flags"])
        elif op["change"] == "delete":
            self.machine.run(slot_ops.delete(vm, op["slot"]))
        elif op["change"] == "move":
            self.machine.run(slot_ops.move(vm, op["slot"], op["base_gfn"]))
        else:
            self.machine.run(slot_ops.set_flags(vm, op["slot"], op["flags"]))

    def _guest(self, op: dict[str, Any], value: int, *kinds: str) -> int | None:
        seen = None
        for index in range(op["n"]):
            for kind in kinds:
                seen = self._access(op["gpa"] + index * op["stride"], kind, value)
                if self._refused:
                    return None
        return seen

    def _access(self, gpa: int, kind: str, value: int) -> int | None:
        """One access of the guest, to a whole word in the place of a byte; what it reads."""
        try:
            if kind == "read":
                return self.machine.read(gpa & ~7)
            self.machine.write(gpa & ~7, value)
        except GuestError:
            self._refused = True
        return None

    def _guest_read(self, op: dict[str, Any]) -> None:
        seen = self._guest(op, _UNKNOWN, "read")
        if seen is not None and seen != _UNKNOWN and "al" in self._result:
            self.reads += 1
            if seen != self._result["al"]:
                self._differ(op, f"recorded that it reads {self._result['al']}, the model reads {seen}")

    def _guest_exec(self, op: dict[str, Any]) -> None:
        self._guest(op, _UNKNOWN, "read")

    def _guest_write(self, op: dict[str, Any]) -> None:
        self._guest(op, self._result.get("al", _UNKNOWN), "write")

    def _guest_rmw(self, op: dict[str, Any]) -> None:
        self._guest(op, _UNKNOWN, "read", "write")

    _guest_read_then_write = _guest_rmw

    def _pre_fault(self, op: dict[str, Any]) -> None:
        if self.machine.vm.version.pre_fault:
            vcpu = self.machine.vm.vcpus[0]
            self.machine.run(prepare_entry(self.machine.vm, vcpu))
            self.machine.run(prefault(self.machine.vm, vcpu, op["gpa"], op["size"]))

    def _host_write(self, op: dict[str, Any]) -> None:
        self.machine.store(op["hva"] & ~7, _UNKNOWN)

    def _host_read(self, op: dict[str, Any]) -> None:
        self.machine.load(op["hva"] & ~7)

    def _host_fill(self, op: dict[str, Any]) -> None:
        for page in range(op["npages"]):
            self.machine.store(op["hva"] + (page << 12), _UNKNOWN)

    def _host_madvise(self, op: dict[str, Any]) -> None:
        mm, hva, length = self.machine.process, op["hva"], op["len"]
        advice = str(op["advice"])
        calls: dict[str, Any] = {
            "MADV_DONTNEED": madvise.dont_need,
            "MADV_COLD": madvise.cold,
            "MADV_PAGEOUT": madvise.page_out,
            "MADV_FREE": madvise.free,
            "MADV_MERGEABLE": madvise.mergeable,
            "MADV_UNMERGEABLE": madvise.unmergeable,
            "MADV_COLLAPSE": collapse.collapse,
        }
        answer = self.machine.run(calls[advice](mm, hva, length))
        if advice == "MADV_COLLAPSE" and answer:
            allowed = (collapse.Collapsed.DONE, collapse.Collapsed.ALREADY)
            if all(one in allowed for one in answer) != (self._result["errno"] == 0):
                self._differ(op, f"recorded errno {self._result['errno']}, the model answers {answer}")
        if advice == "MADV_MERGEABLE":
            self._ksm = [(mm, hva + page) for page in range(0, length, 4096)]

    def _host_mprotect(self, op: dict[str, Any]) -> None:
        self.machine.run(mprotect(self.machine.process, op["hva"], op["len"], read=op["prot"] != "--",
                                  write=op["prot"] == "rw"))  # fmt: skip

    def _host_fork(self, op: dict[str, Any]) -> None:
        self._children.append(self.machine.run(fork.fork(self.machine.process)))

    def _host_child_exit(self, op: dict[str, Any]) -> None:
        self.machine.run(mapping.exit_process(self._children.pop()))

    def _host_move_pages(self, op: dict[str, Any]) -> None:
        for text in op["hva"]:
            self.machine.run(migrate.move_page(self.machine.process, int(text, 16)))

    def _host_memcg_reclaim(self, op: dict[str, Any]) -> None:
        """Which pages were looked at is recorded; that one was old enough to be taken is for the model to find."""
        for index, (name, hva, _, _) in enumerate(self._wanted):
            entry = self.machine.process.table.lookup(hva)
            folio = None if entry is None else self.machine.process.folio_at(entry.hva, entry.level)
            if name != "young" or folio is None:
                continue
            following = self._wanted[index + 1][:2] if index + 1 < len(self._wanted) else None
            if following == ("start", hva):
                self.machine.run(reclaim.reclaim(self.machine.host, [folio]))
            else:
                self.machine.run(reclaim.referenced(folio))

    def _wait(self, op: dict[str, Any]) -> None:
        if self._ksm:
            self.machine.run(ksm.scan(self.machine.host, self._ksm))
            self._ksm = []


def _call(record: KvmRecord) -> Call | None:
    fields = record.fields
    for name, short in (("invalidate_range_start", "start"), ("invalidate_range_end", "end")):
        if record.name == "call kvm_mmu_notifier_" + name:
            return short, fields["range_start"], fields["range_end"], fields["range_event"]
    if record.name == "call kvm_mmu_notifier_change_pte":
        return "change_pte", fields["address"], fields["address"] + 4096, -1
    if record.name == "call kvm_mmu_notifier_clear_flush_young":
        return "young", fields["start"], fields["end"], -1
    return None


def _text(calls: list[Call]) -> str:
    return ", ".join(f"{name} {start:x}..{end:x} {event}" for name, start, end, event in calls[:12]) or "nothing"


def _compare(
    recorded: HostEntry | None, model: HostEntry | None, theirs: dict[int, int], ours: dict[int, int]
) -> str | None:
    if recorded is None or model is None:
        return f"recorded {recorded}, model {model}"
    if recorded.present != model.present:
        return f"recorded {recorded.value:#x}, model {model.value:#x}"
    if not recorded.present:
        return None
    if (recorded.value ^ model.value) & _COMPARED:
        return f"recorded {recorded.value:#x}, model {model.value:#x}"
    their, our = recorded.pfn(recorded.hva), model.pfn(model.hva)
    if theirs.setdefault(their, our) != our or ours.setdefault(our, their) != their:
        return f"recorded frame {their:#x} is frame {theirs[their]:#x} elsewhere, here {our:#x}"
    return None
