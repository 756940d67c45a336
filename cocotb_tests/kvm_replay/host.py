"""Oracle inputs of a replay: what the primary MMU and the kernel's workers did, where the recording has it; counted.

Each becomes an agent that the step runs there: the notifier call is the recording's, what KVM does in it the model's.
"""

from collections import Counter
from typing import Any, Protocol

from cocotb_tests.inputs.kvm_recording import KvmRecord
from cocotb_tests.kvm_replay.match import Matcher
from pymodel.host.recorded import RecordedHost
from pymodel.kvm import notifier, nx_recovery, roots
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, Resched
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Vm

__all__ = ["HostView", "Replayed", "answer_fault", "host_agent", "interrupted", "wants_lock"]

_NOTIFIER = "call kvm_mmu_notifier_"
_RECOVERY_TASK = "nx-lpage"
_ENTRY = frozenset(("call svm_flush_tlb_all", "call kvm_mmu_free_obsolete_roots"))
"""Requests that an entry serves."""


class Replayed(Protocol):
    """What the host's side needs of a replay."""

    host: RecordedHost
    recovering: bool
    """Whether the NX recovery worker is running."""
    oracles: Counter[str]
    """How often each kind of oracle input was used."""


class HostView:
    """`vm.Host` on top of the recorded tables."""

    def __init__(self, recorded: RecordedHost) -> None:
        self._recorded = recorded

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """host_pfn_mapping_level."""
        entry = self._recorded.lookup(slot.ident, slot.hva_of(gfn))
        return 1 if entry is None or not entry.present else entry.level


def answer_fault(replay: Replayed, effect: HostFault, matcher: Matcher) -> HostPage:
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
    before = replay.host.oracle_frames
    page = replay.host.resolve(effect.slot, effect.hva, effect.write, hint)
    replay.oracles["frames"] += replay.host.oracle_frames - before
    return HostPage(None) if page is None else HostPage(*page)


def interrupted(replay: Replayed, matcher: Matcher) -> bool:
    """Whether the guest was left here for the host's sake: the recording enters it again without an exit."""
    record = matcher.peek()
    left = record is not None and (record.name == "vmentry" or record.name in _ENTRY)
    replay.oracles["host interrupts"] += left
    return left


def wants_lock(replay: Replayed, effect: Resched, matcher: Matcher) -> bool:
    """Whether the scheduler wanted the CPU here: the recording flushes in the middle of a zap.

    Where nothing is owed a pause leaves no record and does not matter.
    """
    if not effect.flush:
        return False
    record = matcher.peek()
    wanted = record is not None and record.name == "call kvm_flush_remote_tlbs"
    replay.oracles["pauses of a zap"] += wanted
    return wanted


def host_agent(replay: Replayed, vm: Vm, matcher: Matcher) -> KvmAgent[Any] | None:
    """What to run where the recording stands now; None if what comes is KVM's own doing.

    A notifier call is itself the cause and is taken; the recovery worker shows in the first thing that came of it.
    """
    record = matcher.peek()
    if record is None:
        return None
    agent = _notifier_call(replay, vm, record)
    if agent is not None:
        matcher.take()
        replay.oracles["notifier calls"] += 1
        return agent
    if not replay.recovering and (record.name == "call kvm_tdp_mmu_zap_sp" or _RECOVERY_TASK in record.task):
        replay.oracles["runs of the recovery worker"] += 1
        return _recover(replay, vm)
    return None


def _notifier_call(replay: Replayed, vm: Vm, record: KvmRecord) -> KvmAgent[Any] | None:
    if not record.name.startswith(_NOTIFIER):
        return None
    kind, fields = record.name.removeprefix(_NOTIFIER), record.fields
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
    return roots.release(vm) if kind == "release" else None


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
