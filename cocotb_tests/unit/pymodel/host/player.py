"""Plays a recording's steps on a whole machine: what the host does by itself, without the recorded tables and calls.

What the primary MMU of the recorded kernel did (its page tables after each step, the notifier calls of each step) is
compared with what the model's did. Frame numbers are compared up to a renaming that is one to one at any time.
"""

from collections.abc import Iterator
from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecord, KvmRecording
from pymodel.host import collapse, fork, ksm, madvise, mapping, migrate
from pymodel.host.files import MemFile
from pymodel.host.kernel import HostKernel
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry, HostPageTable
from pymodel.host.process import Process
from pymodel.kvm import slot_ops
from pymodel.kvm.fault import prefault
from pymodel.kvm.roots import prepare_entry
from pymodel.kvm.version import version_for
from pymodel.machine import GuestError, Machine

Call = tuple[str, int, int, int]
"""(notifier, start, end, event); change_pte and clear_flush_young have event -1."""
_COMPARED = 1 | 2 | 4 | 1 << 7 | 1 << 9 | 1 << 63
"""P, W, U, PS, special, NX. A and D depend on accesses that the recording does not list."""


class Spy:
    """A notifier that writes down what it is told, before KVM's own."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def _note(self, name: str, start: int, end: int, event: int) -> Iterator[None]:
        self.calls.append((name, start, end, event))
        yield from ()

    def invalidate_range_start(self, start: int, end: int, event: MmuEvent) -> Any:
        return self._note("start", start, end, int(event))

    def invalidate_range_end(self, start: int, end: int, event: MmuEvent) -> Any:
        return self._note("end", start, end, int(event))

    def change_pte(self, hva: int, frame: int, writable: bool) -> Any:
        return self._note("change_pte", hva, hva + 4096, -1)

    def clear_flush_young(self, start: int, end: int) -> Any:
        return self._note("young", start, end, -1)

    def clear_young(self, start: int, end: int) -> Any:
        return self._note("clear_young", start, end, -1)

    def test_young(self, hva: int) -> Any:
        return self._note("test_young", hva, hva + 4096, -1)

    def release(self) -> Any:
        return self._note("release", 0, 0, -1)


class Player:
    """One recording on one machine; `steps` and `differences` say what was compared and what was not equal."""

    def __init__(self, recording: KvmRecording, kernel: HostKernel | None = None) -> None:
        """`kernel`: another host than the recorded one."""
        records = recording.records
        regions = [record.fields for record in records if record.name == "op" and record.fields["op"] == "host_region"]
        self._inside = [(one["hva"], one["hva"] + one["len"]) for one in regions]
        gigabytes = sum(1 for one in regions if one["kind"] == "hugetlb1g")
        huge = 32 if any(one["kind"] == "hugetlb2m" for one in regions) else 0
        frames = (1 << 16) + (gigabytes << 18) + huge * 512
        pools = {level: count for level, count in ((2, huge), (3, gigabytes)) if count}
        version = version_for(recording.header.kernel)
        self.machine = Machine(version, kernel=kernel, base=1 << 18, frames=frames, hugetlb=pools)
        self.machine.on_effect.append(self.machine.check_reuse)
        self.spy = Spy()
        self.machine.process.notifiers.insert(0, self.spy)
        self._records = records
        self._children: list[Process] = []
        self._ksm: list[tuple[Process, int]] = []
        self.tables: dict[int, HostPageTable] = {}
        self.steps = self.calls = 0
        self.differences: list[str] = []

    def play(self) -> None:
        """All steps; the machine's invariants are checked after each."""
        index = 0
        while index < len(self._records):
            record = self._records[index]
            following = index + 1
            while following < len(self._records) and self._records[following].name != "op":
                following += 1
            if record.name == "op":
                self._step(record, self._records[index + 1 : following])
            index = following

    def _step(self, op: KvmRecord, records: list[KvmRecord]) -> None:
        self.spy.calls.clear()
        action = getattr(self, "_" + op.fields["op"], None)
        if action is not None:
            action(op.fields)
        if op.fields["op"] in ("destroy_vm", "end_of_scenario"):
            return
        self.machine.check()
        self.steps += 1
        wanted = [call for record in records if (call := _call(record)) is not None and self._concerns(call)]
        self.calls += len(wanted)
        if wanted != self.spy.calls:
            self.differences.append(f"line {op.line} {op.fields}:\n  recorded {_text(wanted)}\n  model    "
                                    f"{_text(self.spy.calls)}")  # fmt: skip
        for record in records:
            if record.name == "host_pt":
                self._compare_tables(op, record)

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
            if any(start <= low < end for low, _ in self._inside[:1]):
                continue
            recorded = {(entry.hva, entry.level): entry
                        for entry in self.tables.get(slot.ident, HostPageTable()).leaves(start, end)}  # fmt: skip
            model = {(entry.hva, entry.level): entry for entry in self.machine.process.table.leaves(start, end)}
            for place in sorted(recorded.keys() | model.keys()):
                text = _differ(recorded.get(place), model.get(place), theirs, ours)
                if text:
                    self.differences.append(f"line {op.line} {op.fields}: hva {place[0]:#x} level {place[1]}: {text}")
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

    def _guest(self, op: dict[str, Any], *kinds: str) -> None:
        for index in range(op["n"]):
            gpa = op["gpa"] + index * op["stride"]
            try:
                for kind in kinds:
                    if kind == "read":
                        self.machine.read(gpa & ~7)
                    else:
                        self.machine.write(gpa & ~7, index)
            except GuestError:
                return

    def _guest_read(self, op: dict[str, Any]) -> None:
        self._guest(op, "read")

    _guest_exec = _guest_read

    def _guest_write(self, op: dict[str, Any]) -> None:
        self._guest(op, "write")

    def _guest_rmw(self, op: dict[str, Any]) -> None:
        self._guest(op, "read", "write")

    _guest_read_then_write = _guest_rmw

    def _pre_fault(self, op: dict[str, Any]) -> None:
        if self.machine.vm.version.pre_fault:
            vcpu = self.machine.vm.vcpus[0]
            self.machine.run(prepare_entry(self.machine.vm, vcpu))
            self.machine.run(prefault(self.machine.vm, vcpu, op["gpa"], op["size"]))

    def _host_write(self, op: dict[str, Any]) -> None:
        self.machine.store(op["hva"] & ~7, 1)

    def _host_read(self, op: dict[str, Any]) -> None:
        self.machine.load(op["hva"] & ~7)

    def _host_fill(self, op: dict[str, Any]) -> None:
        for page in range(op["npages"]):
            self.machine.store(op["hva"] + (page << 12), 0x5A5A)

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
        self.machine.run(calls[advice](mm, hva, length))
        if advice == "MADV_MERGEABLE":
            # ksmd came to the second page first, whose twin then was the first one seen.
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

    def _wait(self, op: dict[str, Any]) -> None:
        if self._ksm:
            first, second, *rest = self._ksm
            self.machine.run(ksm.scan(self.machine.host, [second, first, *rest]))
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


def _differ(
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
