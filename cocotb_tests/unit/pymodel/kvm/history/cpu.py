"""A vCPU's processor: nested walks with A and D, a TLB that only flushes empty, a page-modification log.

Written from the formats (facts A2, A3), not from KVM's masks: the second opinion on what entries mean.
"""

from collections import deque
from dataclasses import dataclass, field

from cocotb_tests.unit.pymodel.kvm.history.world import World
from pymodel.effects import CompareExchange, Load
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import KvmAgent, SrcuEnter, SrcuLeave, TlbFlush
from pymodel.kvm.fault import page_fault
from pymodel.kvm.pml import flush_buffer
from pymodel.kvm.roots import prepare_entry
from pymodel.kvm.vm import Table, Vcpu, Vm

__all__ = ["READ", "WRITE", "EXECUTE", "Processor"]

READ, WRITE, EXECUTE = 0, 2, 16
_FINAL, _USER = 1 << 32, 4
_ADDRESS = ((1 << 51) - 1) & ~0xFFF


@dataclass(frozen=True, slots=True)
class Line:
    """A cached translation."""

    frame: int
    write: bool
    execute: bool
    dirty: bool


@dataclass(slots=True)
class Walk:
    """What a walk came to: a line, or the error code of a fault, or neither if an entry changed under it."""

    line: Line | None = None
    error: int | None = None


@dataclass(slots=True, eq=False)
class Processor:
    """The processor of one vCPU."""

    vm: Vm
    vcpu: Vcpu
    world: World
    program: deque[tuple[int, int]] = field(default_factory=deque)
    """Accesses to do: (gfn, READ, WRITE or EXECUTE)."""
    busy: bool = False
    tlb: dict[int, Line] = field(default_factory=dict)
    root: Table | None = None
    """The root that the TLB is about."""
    epoch: int = 0
    """Kicks so far: a walk that one falls into is of no use."""
    refused: bool = False
    """The host refused an access of the fault under way."""
    committed: int = 0

    def flush(self, what: TlbFlush) -> None:
        """The vCPU leaves the guest, and its translations of the range are gone."""
        self.epoch += 1
        end = None if what.pages is None else what.gfn + what.pages
        self.tlb = {} if end is None else {gfn: kept for gfn, kept in self.tlb.items() if not what.gfn <= gfn < end}

    def run(self) -> KvmAgent[None]:
        """Do the program."""
        while self.program:
            gfn, kind = self.program.popleft()
            yield from self.access(gfn, kind)
        self.busy = False

    def _enter(self) -> KvmAgent[None]:
        while self.vcpu.requests or self.vcpu.root is None:
            yield from flush_buffer(self.vm, self.vcpu)
            yield from prepare_entry(self.vm, self.vcpu)
        if self.vcpu.root is not self.root:
            self.root, self.tlb = self.vcpu.root, {}

    def access(self, gfn: int, kind: int) -> KvmAgent[None]:
        """One access until it takes effect, leaves to userspace or fails; each is held against the world."""
        vm, vcpu, world = self.vm, self.vcpu, self.world
        changes = world.changes
        while True:
            yield from self._enter()
            line, epoch = self.tlb.get(gfn), self.epoch
            if line is None or not _grants(line, kind):
                walk = yield from self._walk(gfn, kind)
                if vcpu.requests or self.epoch != epoch or (walk.line is None and walk.error is None):
                    continue
                line = walk.line
                if line is not None:
                    self.tlb[gfn] = line
            if line is not None:
                self._commit(gfn, kind, line)
                return
            assert walk.error is not None
            self.refused = False
            yield from flush_buffer(vm, vcpu)
            yield SrcuEnter()
            outcome = yield from page_fault(vm, vcpu, gfn << 12, walk.error)
            if outcome.emulate:
                yield from self._emulate(gfn, kind, changes)
            yield SrcuLeave()
            if outcome.error:
                converted = changes != world.changes or world.misses_private(gfn, vcpu.as_id)
                assert self.refused or converted, f"access {kind} of gfn {gfn:#x} failed with {outcome.error}"
            if outcome.error or outcome.emulate:
                return

    def _emulate(self, gfn: int, kind: int, changes: int) -> KvmAgent[None]:
        """Right without memory, and for writes that KVM must see; of those the fault may know the gfns of before."""
        world, as_id = self.world, self.vcpu.as_id
        seen = kind == WRITE and (world.emulates_writes(gfn, as_id) or changes != world.changes)
        good = seen or False in world.is_memory(gfn, as_id)
        assert good, f"access {kind} of gfn {gfn:#x} was emulated, which is memory"
        slot = self.vm.slots.find(gfn, as_id)
        if kind == WRITE and slot is not None and not slot.readonly:
            world.written(gfn, as_id)
            yield from mark_dirty(self.vm, slot, gfn, self.vcpu)

    def _commit(self, gfn: int, kind: int, line: Line) -> None:
        self.committed += 1
        allowed = self.world.frames(gfn, self.vcpu.as_id)
        frames = {frame for frame, writable in allowed if writable or kind != WRITE}
        assert line.frame in frames, (
            f"vCPU {self.vcpu.ident}: access {kind} of gfn {gfn:#x} reached frame {line.frame:#x}, not {allowed}"
        )
        if kind == WRITE:
            self.world.written(gfn, self.vcpu.as_id)

    # --- the walk ------------------------------------------------------------------------------------------

    def _walk(self, gfn: int, kind: int) -> KvmAgent[Walk]:
        """From the root to a leaf; A and D are set by compare-exchange, as a locked update with a check is."""
        vcpu, ept, has_ad = self.vcpu, self.vm.fmt.is_ept, self.vm.fmt.ad_enabled
        assert vcpu.root is not None
        table, level = vcpu.root.frame << 12, vcpu.root.level
        write = execute = True
        code = _FINAL | _USER | kind
        while True:
            address = table + 8 * (gfn >> 9 * (level - 1) & 511)
            entry: int = yield Load(address)
            if not entry & (7 if ept else 1):
                return Walk(error=code)
            if (entry & 3 == 2) if ept else (entry >> 51 & 1):
                return Walk(error=code | 8)
            write = write and bool(entry & 2)
            execute = execute and bool(entry & 4 if ept else not entry >> 63)
            if ept and not entry & 1:
                return Walk(error=code)
            leaf = level == 1 or bool(entry & 0x80)
            granted = not ((kind == WRITE and not write) or (kind == EXECUTE and not execute))
            if leaf and not granted:
                return Walk(error=code | 1)
            accessed, dirty = (1 << 8, 1 << 9) if ept else (1 << 5, 1 << 6)
            wanted = (accessed | (dirty if leaf and kind == WRITE else 0)) if has_ad else 0
            if wanted & ~entry:
                if (yield CompareExchange(address, entry, entry | wanted)) != entry:
                    return Walk()
                if vcpu.pml_enabled and wanted & ~entry & dirty and ept:
                    vcpu.pml.append(gfn << 12)
            if leaf:
                offset = gfn & (1 << 9 * (level - 1)) - 1
                is_dirty = not has_ad or bool((entry | wanted) & dirty)
                return Walk(Line(((entry & _ADDRESS) >> 12) + offset, write, execute, is_dirty))
            table, level = entry & _ADDRESS, level - 1


def _grants(line: Line, kind: int) -> bool:
    """Whether a cached line serves the access without a walk; a write needs D to be set in memory."""
    if kind == WRITE:
        return line.write and line.dirty
    return kind == READ or line.execute
