"""Oracle inputs of a replay: what the primary MMU and the kernel's workers did, where the recording has it.

Each becomes an agent that the step runs there: the notifier call is the recording's, what KVM does in it the model's.
"""

from typing import Any, Protocol

from cocotb_tests.inputs.kvm_recording import KvmRecord
from cocotb_tests.kvm_replay.match import Matcher
from pymodel.host.recorded import RecordedHost
from pymodel.kvm import notifier, nx_recovery, roots
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, Resched
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Vm

__all__ = ["HostView", "answer_fault", "host_agent", "interrupted", "is_call", "wants_lock"]

_RECOVERY_TASK = "nx-lpage"
_ENTRY = frozenset(("call svm_flush_tlb_all", "call kvm_mmu_free_obsolete_roots"))
"""Requests that an entry serves."""


class Replayed(Protocol):
    """What the host's side needs of a replay."""

    host: RecordedHost
    recovering: bool
    """Whether the NX recovery worker is running."""


class HostView:
    """`vm.Host` on top of the recorded tables."""

    def __init__(self, recorded: RecordedHost) -> None:
        self._recorded = recorded

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """host_pfn_mapping_level."""
        entry = self._recorded.lookup(slot.ident, slot.hva_of(gfn))
        return 1 if entry is None or not entry.present else entry.level


def answer_fault(host: RecordedHost, effect: HostFault, matcher: Matcher) -> HostPage:
    """get_user_pages on the recorded tables; the next recorded answer helps where they cannot tell."""
    hint = None
    for record in matcher.records[matcher.position :]:
        if record.name == "page_fault":
            break
        if record.name == "call kvm_tdp_mmu_map":
            pfn, writable = record.fields.get("fault_pfn"), record.fields.get("fault_map_writable")
            if pfn is not None and writable is not None:
                hint = pfn, bool(writable)
            break
    page = host.resolve(effect.slot, effect.hva, effect.write, hint)
    return HostPage(None) if page is None else HostPage(*page)


def interrupted(matcher: Matcher) -> bool:
    """Whether the guest was left here for the host's sake: the recording enters it again without an exit."""
    record = matcher.peek()
    return record is not None and (record.name == "vmentry" or record.name in _ENTRY)


def wants_lock(effect: Resched, matcher: Matcher) -> bool:
    """Whether the scheduler wanted the CPU here: the recording flushes in the middle of a zap.

    Where nothing is owed a pause leaves no record and does not matter.
    """
    if not effect.flush:
        return False
    record = matcher.peek()
    return record is not None and record.name == "call kvm_flush_remote_tlbs"


def host_agent(replay: Replayed, vm: Vm, record: KvmRecord) -> KvmAgent[Any] | None:
    """What to run where the recording has this record; None if it is KVM's own doing."""
    name, fields = record.name, record.fields
    if name.startswith("call kvm_mmu_notifier_"):
        kind = name.removeprefix("call kvm_mmu_notifier_")
        if kind == "invalidate_range_start":
            return notifier.invalidate_range_start(vm, fields["range_start"], fields["range_end"])
        if kind == "invalidate_range_end":
            return _range_end(replay, vm, fields["range_start"], fields["range_end"])
        if kind == "change_pte":
            pfn, writable = _new_page(replay, vm, fields["address"])
            return notifier.change_pte(vm, fields["address"], pfn, writable)
        if kind == "clear_flush_young":
            return notifier.clear_flush_young(vm, fields["start"], fields["end"])
        if kind == "clear_young":
            return notifier.clear_young(vm, fields["start"], fields["end"])
        if kind == "test_young":
            return notifier.test_young(vm, fields["address"])
        if kind == "release":
            return roots.release(vm)
    if not replay.recovering and (name == "call kvm_tdp_mmu_zap_sp" or _RECOVERY_TASK in record.task):
        return _recover(replay, vm)
    return None


def is_call(record: KvmRecord) -> bool:
    """Whether the record itself is the cause (a notifier call), and not the first thing that came of it."""
    return record.name.startswith("call kvm_mmu_notifier_")


def _range_end(replay: Replayed, vm: Vm, start: int, end: int) -> KvmAgent[None]:
    yield from notifier.invalidate_range_end(vm, start, end)
    replay.host.settle(start, end)


def _recover(replay: Replayed, vm: Vm) -> KvmAgent[None]:
    replay.recovering = True
    yield from nx_recovery.recover(vm)
    replay.recovering = False


def _new_page(replay: Replayed, vm: Vm, hva: int) -> tuple[int, bool]:
    for slot, _, _ in vm.slots.in_hva_range(hva, hva + 1):
        entry = replay.host.final(slot.ident, hva)
        if entry is not None and entry.present:
            return entry.pfn(hva), entry.writable
    return 0, True
