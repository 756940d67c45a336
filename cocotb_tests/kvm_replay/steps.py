"""The steps of a recording as operations of the model: what the capturing process asked of KVM and of its memory.

Steps on the host's memory do nothing here: the recorded tables and notifier calls say what came of them. What KVM
refuses the model must refuse, with the same errno.
"""

from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecord
from cocotb_tests.kvm_replay.host import HostView
from cocotb_tests.kvm_replay.session import Session
from pymodel.host.regions import Region
from pymodel.kvm import dirty, nx_recovery, roots, slot_ops
from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.fault import prefault
from pymodel.kvm.hardware import FETCH, GUEST_PAGE, READ, WRITE
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vcpu import Access, Instruction, run_guest
from pymodel.kvm.version import version_for
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["guest", "perform"]

_CODE = 0xF0000000
_OFFSETS = {"guest_read": 0x00, "guest_write": 0x20, "guest_rmw": 0x60, "guest_read_then_write": 0x80}
_LONG = 0x100
_NOTHING = ("wait", "end_of_scenario")
_CAP_MANUAL_PROTECT, _CAP_QUIRKS, _QUIRK_ZAP_ALL = 168, 213, 0x80
_CAPS_RING = (192, 223)
_RESET = {"cr0": 0x11, "cr3": 0, "cr4": 0, "efer": 0}
"""Control registers of the capture's flat guest; a call that changes none of them leaves the root alone."""


def perform(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    """Do one step. Raises `Mismatch` where its result differs from the recorded one."""
    name = op.fields["op"]
    if name.startswith("guest_"):
        _guest(replay, op, end)
    elif name in _STEPS:
        _STEPS[name](replay, op, end)
    elif not name.startswith("host_") and name not in _NOTHING:
        replay.note(f"step {name}")


def _vm(replay: Session, op: KvmRecord) -> Vm:
    if replay.vm is None:
        replay.matcher.fail("a VM", "none: this step comes before create_vm", op.line)
        raise AssertionError
    return replay.vm


def _vcpu(replay: Session, op: KvmRecord) -> Vcpu:
    vcpus, number = _vm(replay, op).vcpus, op.fields["vcpu"]
    if number >= len(vcpus):
        replay.matcher.fail(f"vCPU {number}", f"{len(vcpus)} vCPUs", op.line)
    return vcpus[number]


def _errno(end: KvmRecord | None) -> int:
    """The errno that the capture's call returned; 0 where it succeeded."""
    if end is None or not end.fields.get("ret", 0):
        return 0
    return int(end.fields.get("errno", 0))


def _call(replay: Session, op: KvmRecord, end: KvmRecord | None, agent: KvmAgent[Any]) -> Any:
    """An operation that KVM may refuse: the model must refuse the same, with the same errno; None if it does.

    A refusal that the model has no reason for, and that left no record, was the host's (no memory, no right).
    """
    errno, line = _errno(end), op.line if end is None else end.line
    result = None
    try:
        if errno and replay.matcher.peek() is None:
            next(agent, None)
            agent.close()
            replay.oracles["refusals by the host"] += 1
            return None
        result = replay.do(agent)
    except KvmError as error:
        if error.errno != errno:
            replay.matcher.fail(f"errno {errno}" if errno else "success", f"errno {error.errno}: {error}", line)
        return None
    if errno:
        replay.matcher.fail(f"errno {errno}", "success", line)
    return result


def _slot(op: KvmRecord) -> tuple[int, int]:
    """(id, address space) of a slot; KVM packs both into one number."""
    number = op.fields["slot"]
    return number & 0xFFFF, op.fields.get("as_id", number >> 16)


def _create_vm(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    version = version_for(replay.recording.header.kernel)
    replay.params.manual_protect = replay.params.initially_set = False
    replay.params.slot_zap_all = True
    replay.control.clear()
    replay.guest_tables = None
    replay.vm = Vm(version, HostView(replay.host), replay.new_frame, params=replay.params, release=replay.release_frame)
    replay.matcher.vm = replay.vm


def _create_vcpus(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm = _vm(replay, op)
    for _ in range(op.fields["n"]):
        vm.add_vcpu()


def _region(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    replay.host.regions.add(Region(op.fields["hva"], op.fields["len"], str(op.fields["kind"])))


def _memslot(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm, fields = _vm(replay, op), op.fields
    change, (ident, as_id) = fields["change"], _slot(op)
    if change == "create":
        slot = Memslot(ident, fields["base_gfn"], fields["npages"], fields["hva"], fields["flags"], as_id)
        agent = slot_ops.create(vm, slot)
    elif change == "delete":
        agent = slot_ops.delete(vm, ident, as_id)
    elif change == "move":
        agent = slot_ops.move(vm, ident, fields["base_gfn"], as_id)
    elif change == "flags":
        agent = slot_ops.set_flags(vm, ident, fields["flags"], as_id)
    else:
        replay.matcher.fail("a change of a memslot: create, delete, move, flags", str(change), op.line)
        return
    _call(replay, op, end, agent)


def _get_dirty_log(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm = _vm(replay, op)

    def get() -> KvmAgent[set[int]]:
        return (yield from dirty.get_dirty_log(vm, vm.slots.logged(*_slot(op))))

    dirty_pages = _call(replay, op, end, get())
    if dirty_pages is None or end is None or "dirty" not in end.fields:
        return
    theirs = {first + index for first, count in end.fields["dirty"] for index in range(count)}
    if dirty_pages != theirs:
        wrong = sorted(dirty_pages ^ theirs)[:8]
        replay.matcher.fail(f"dirty pages, of which {wrong} differ", f"{len(dirty_pages)} pages", end.line)


def _clear_dirty_log(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm, fields = _vm(replay, op), op.fields
    bits = [first + index for first, count in fields["bits"] for index in range(count)]

    def clear() -> KvmAgent[None]:
        slot = vm.slots.logged(*_slot(op))
        yield from dirty.clear_dirty_log(vm, slot, fields["first"], bits, fields.get("n"))

    _call(replay, op, end, clear())


def _enable_cap(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm, fields = _vm(replay, op), op.fields
    cap, arg = fields["cap"], fields["arg"]
    error = 0
    if cap == _CAP_MANUAL_PROTECT:
        if arg & ~(3 if arg & 1 else 1):
            error = EINVAL
        else:
            vm.params.manual_protect, vm.params.initially_set = bool(arg & 1), bool(arg & 2)
    elif cap == _CAP_QUIRKS:
        if arg & _QUIRK_ZAP_ALL and not vm.version.slot_zap_quirk:
            error = EINVAL
        else:
            vm.params.slot_zap_all = not arg & _QUIRK_ZAP_ALL
    elif cap in _CAPS_RING:
        error = _enable_ring(vm, arg)
    else:
        replay.note(f"capability {cap}")
        return
    _result(replay, end, error)


def _enable_ring(vm: Vm, size: int) -> int:
    """KVM_CAP_DIRTY_LOG_RING: `size` bytes of 16-byte entries, once, before the first vCPU; the errno."""
    if vm.vcpus or vm.params.dirty_ring_size or not size or size % 16:
        return EINVAL
    try:
        vm.params.dirty_ring_size = size // 16
        vm.params.check(vm.fmt)
    except KvmError as error:
        vm.params.dirty_ring_size = 0
        return error.errno
    return 0


def _result(replay: Session, end: KvmRecord | None, error: int) -> None:
    if end is not None and end.fields.get("errno", 0) != error:
        replay.matcher.fail(f"errno {end.fields.get('errno')}", f"errno {error}", end.line)


def _host_set(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    params, value = replay.params, str(op.fields["value"])
    what = op.fields["what"]
    if what == "eager_page_split":
        params.eager_page_split = _truth(value)
    elif what == "nx_huge_pages_recovery_ratio":
        params.recovery_ratio = int(value)
    elif what == "nx_huge_pages":
        wanted = value == "force" or (value not in ("auto", "never") and _truth(value))
        if replay.vm is None:
            params.nx_huge_pages = wanted
        else:
            replay.do(nx_recovery.set_mitigation(replay.vm, wanted))


def _truth(value: str) -> bool:
    """kstrtobool."""
    return value[:1] in ("1", "y", "Y", "t", "T") or value[:2].lower() == "on"


def _set_sregs(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm = _vm(replay, op)
    vcpu = _vcpu(replay, op)
    replay.guest_tables = op.fields.get("cr3") if op.fields.get("mode") == "long" else None
    control = replay.control.setdefault(vcpu.ident, dict(_RESET))
    before = dict(control)
    control.update({name: op.fields[name] for name in _RESET if name in op.fields})
    if control != before:
        replay.do(roots.free_roots(vm, vcpu))


def _pre_fault(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    vm, fields = _vm(replay, op), op.fields
    _result(replay, end, replay.do(prefault(vm, _vcpu(replay, op), fields["gpa"], fields["size"])))


def _destroy_vm(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    replay.do(roots.destroy(_vm(replay, op)))
    replay.host_events()
    replay.vm = None


_STEPS = {
    "create_vm": _create_vm,
    "create_vcpus": _create_vcpus,
    "host_region": _region,
    "host_mmap_fixed": _region,
    "memslot": _memslot,
    "get_dirty_log": _get_dirty_log,
    "clear_dirty_log": _clear_dirty_log,
    "enable_cap": _enable_cap,
    "host_set": _host_set,
    "set_sregs": _set_sregs,
    "pre_fault": _pre_fault,
    "destroy_vm": _destroy_vm,
}


def guest(replay: Session, vm: Vm, op: KvmRecord) -> KvmAgent[int]:
    """The vCPU that does the accesses of this step."""
    fields = op.fields
    program: list[Instruction] = []
    for index in range(fields["n"]):
        program += _program(replay, str(fields["op"]), fields["gpa"] + index * fields["stride"])
    return run_guest(vm, _vcpu(replay, op), program)


def _guest(replay: Session, op: KvmRecord, end: KvmRecord | None) -> None:
    error = replay.do(guest(replay, _vm(replay, op), op))
    if end is not None and isinstance(end.fields.get("ret"), int) and end.fields["ret"] != -error:
        replay.matcher.fail(f"result {end.fields['ret']}", f"result {-error}", end.line)


def _program(replay: Session, name: str, gpa: int) -> list[Instruction]:
    """The guest's instructions for one access; its code stands in slot 0, `guest_exec` runs the page itself."""
    if name != "guest_exec" and name not in _OFFSETS:
        known = ", ".join(("guest_exec", *_OFFSETS))
        raise ValueError(f"a guest's step must be one of {known}, not {name}")
    if name == "guest_exec":
        return [Instruction((*_guest_walk(replay, gpa), Access(gpa, FETCH)))]
    code = _CODE + _OFFSETS[name] + (0 if replay.guest_tables is None else _LONG)
    before = (*_guest_walk(replay, code), Access(code, FETCH), *_guest_walk(replay, gpa))
    read, write = Access(gpa, READ), Access(gpa, WRITE)
    kinds = {
        "guest_read": ((read,),),
        "guest_write": ((write,),),
        "guest_rmw": ((read, write),),
        "guest_read_then_write": ((read,), (write,)),
    }[name]
    return [Instruction((*before, *accesses), page_table_write=accesses == (write,)) for accesses in kinds]


def _guest_walk(replay: Session, address: int) -> tuple[Access, ...]:
    """The guest's own page walk, as the capture's guest is set up: one table a level behind CR3, identity mapped.

    1G pages but in the second gigabyte, 2M pages there but in its first 2M, which has 4K pages. The emulated CPU
    opens each entry for writing, because it may have to set A or D.
    """
    base = replay.guest_tables
    if base is None:
        return ()
    second, first = address >> 30 == 1, address >> 21 == 512
    entries = [base + 8 * (address >> 39 & 511), base + 0x1000 + 8 * (address >> 30 & 511)]
    if second:
        entries.append(base + 0x2000 + 8 * (address >> 21 & 511))
    if first:
        entries.append(base + 0x3000 + 8 * (address >> 12 & 511))
    return tuple(Access(entry, WRITE, GUEST_PAGE) for entry in entries)
