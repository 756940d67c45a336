"""A VM under random operations: each an agent that changes the world where the kernel's caller would."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from cocotb_tests.unit.pymodel.kvm.history.cpu import Processor
from cocotb_tests.unit.pymodel.kvm.history.scheduler import Scheduler, SlotsLock
from cocotb_tests.unit.pymodel.kvm.history.world import Slot, View, World
from pymodel.effects import changed
from pymodel.kvm import attributes, dirty, dirty_ring, guest_memfd, notifier, slot_ops, write_track
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, TlbFlush
from pymodel.kvm.errors import KvmError
from pymodel.kvm.memslots import LOG_DIRTY, Memslot
from pymodel.kvm.pml import flush_buffer
from pymodel.kvm.spte import SpteFormat
from pymodel.kvm.version import KvmVersion
from pymodel.kvm.vm import KvmParams, Vm
from pymodel.memory import PhysMem

__all__ = ["HVA", "History"]

HVA = 0x2000_0000_0000
"""Where host page 0 is mapped."""
Key = tuple[int, int]


class History:
    """One VM, its host, its vCPUs, and the oracle beside it."""

    def __init__(self, version: KvmVersion, fmt: SpteFormat | None, vcpus: int, **params: Any) -> None:
        self.memory = PhysMem()
        self.world = World()
        self._frame = 1 << 30
        self._free: list[int] = []
        self._quarantine: list[int] = []
        self.vm = Vm(version, self, self._new_frame, fmt=fmt, params=KvmParams(**params), release=self._release)
        self.vm.traced = False
        self.scheduler = Scheduler(self.vm, self.memory, self._flush)
        self.processors = [Processor(self.vm, self.vm.add_vcpu(), self.world) for _ in range(vcpus)]

    # --- what KVM asks of its surroundings -----------------------------------------------------------------

    def _new_frame(self) -> int:
        if self._free:
            return self._free.pop()
        self._frame += 1
        return self._frame

    def _release(self, frame: int) -> None:
        """call_rcu: a page is not used again while a task runs that may still read it."""
        self._quarantine.append(frame)

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """host_pfn_mapping_level."""
        found = self.world.lookup(slot.hva_of(gfn) - HVA >> 12)
        return 1 if found is None else found[1]

    def _flush(self, what: TlbFlush) -> None:
        for processor in self.processors:
            processor.flush(what)

    def _hosted(self, agent: KvmAgent[Any], processor: Processor | None = None) -> KvmAgent[Any]:
        """An agent whose host faults the world answers, with the notifiers that this takes."""
        return changed(agent, lambda one: self._resolve(one, processor) if isinstance(one, HostFault) else None)

    def _resolve(self, effect: HostFault, processor: Processor | None) -> KvmAgent[HostPage]:
        """get_user_pages, or guest_memfd."""
        world, number = self.world, effect.hva - HVA >> 12
        if effect.private:
            slot = next(slot for key, slot in world.view.slots.items() if key[1] == effect.slot)
            return HostPage(world.gmem_frame(slot, number - slot.host + slot.base), True, max_level=1)
        if world.lookup(number) is None:
            world.fill(number)
        page, _ = world.lookup(number) or (None, 0)
        assert page is not None
        if effect.write and page.refuses:
            if processor is not None:
                processor.refused = True
            return HostPage(None)
        if effect.write and page.copy:
            yield from self.change(number, 1, lambda: world.move(number, 1))
            return (yield from self._resolve(effect, processor))
        return HostPage(page.frame, not page.copy and not page.refuses)

    # --- tasks ---------------------------------------------------------------------------------------------

    def spawn(self, name: str, agent: KvmAgent[Any]) -> None:
        """A thread of its own."""
        self.scheduler.spawn(name, self._hosted(agent))

    def guest(self, vcpu: int, program: Iterable[tuple[int, int]]) -> None:
        """Let a vCPU make accesses, behind those that it has still to do."""
        processor = self.processors[vcpu]
        processor.program.extend(program)
        if not processor.busy:
            processor.busy = True
            self.scheduler.spawn(f"vCPU {vcpu}", self._hosted(processor.run(), processor))

    def on_vcpu(self, vcpu: int, agent: KvmAgent[Any]) -> None:
        """Something that the vCPU does itself, outside of the guest; only where it is idle."""
        processor = self.processors[vcpu]

        def act() -> KvmAgent[None]:
            yield from flush_buffer(self.vm, processor.vcpu)  # the first thing after the guest was left
            yield from agent
            processor.busy = False

        if not processor.busy:
            processor.busy = True
            self.scheduler.spawn(f"vCPU {vcpu}", self._hosted(act(), processor))

    def settle(self) -> None:
        """Run all tasks to their end; every table that was freed may be used again."""
        self.scheduler.run()
        for frame in self._quarantine:
            self.scheduler.recycle(frame)
        self._free += self._quarantine
        self._quarantine.clear()
        self.scheduler.check_settled()

    # --- the host ------------------------------------------------------------------------------------------

    def change(self, first: int, count: int, how: Callable[[], object]) -> KvmAgent[None]:
        """Change host pages between the notifiers that announce it."""
        start, end = HVA + (first << 12), HVA + (first + count << 12)
        yield from notifier.invalidate_range_start(self.vm, start, end)
        how()
        yield from notifier.invalidate_range_end(self.vm, start, end)

    # --- userspace -----------------------------------------------------------------------------------------

    def locked(self, operation: Callable[[], KvmAgent[Any]]) -> Generator[Any, Any, None]:
        """An operation under slots_lock; it begins only once the lock is taken."""
        yield SlotsLock(True)
        yield from operation()
        yield SlotsLock(False)

    def _between(self, make: Callable[[View], View], agent: Callable[[], KvmAgent[Any]]) -> KvmAgent[None]:
        """An operation that takes userspace's view to another, or is refused and leaves it."""

        def act() -> KvmAgent[None]:
            before = self.world.view
            after = make(before)
            self.world.changes += (before.private, before.tracked) != (after.private, after.tracked)
            self.world.views = [before, after]
            for key, slot in before.slots.items():
                kept = after.slots.get(key)
                if kept is None or not kept.flags & LOG_DIRTY or not slot.flags & LOG_DIRTY:
                    self.world.unreported.pop(key, None)
            try:
                yield from agent()
            except KvmError:
                after = before
            self.world.changes += (before.private, before.tracked) != (after.private, after.tracked)
            self.world.views = [after]

        return self.locked(act)

    def set_slot(self, key: Key, change: Callable[[Slot | None], Slot | None]) -> KvmAgent[None]:
        """KVM_SET_USER_MEMORY_REGION: what `change` makes of the slot that is there when slots_lock is taken."""

        def call() -> KvmAgent[None]:
            before, after = (view.slots.get(key) for view in self.world.views)
            if before is None and after is not None:
                hva = HVA + (after.host << 12)
                return slot_ops.create(self.vm, Memslot(key[1], after.base, after.npages, hva, after.flags, key[0]))
            if after is None or before is None:
                return slot_ops.delete(self.vm, key[1], key[0])
            if before.base != after.base:
                return slot_ops.move(self.vm, key[1], after.base, key[0])
            return slot_ops.set_flags(self.vm, key[1], after.flags, key[0])

        return self._between(lambda view: view.with_slot(key, change(view.slots.get(key))), call)

    def set_private(self, first: int, end: int, private: bool) -> KvmAgent[None]:
        """KVM_SET_MEMORY_ATTRIBUTES."""
        span = frozenset(range(first, end))

        def make(view: View) -> View:
            return View(view.slots, view.private | span if private else view.private - span, view.tracked)

        return self._between(make, lambda: attributes.set_private(self.vm, first, end, private))

    def track(self, gfn: int) -> KvmAgent[None]:
        """Track the writes to a gfn, or no longer, whatever it is not when slots_lock is taken."""

        def call() -> KvmAgent[None]:
            on = gfn in self.world.views[-1].tracked
            return (write_track.track_writes if on else write_track.untrack_writes)(self.vm, gfn)

        return self._between(lambda view: View(view.slots, view.private, view.tracked ^ {gfn}), call)

    def punch(self, key: Key, first: int, count: int) -> KvmAgent[None]:
        """A hole in the slot's guest_memfd."""

        def act() -> KvmAgent[None]:
            slot = self.vm.slots.existing(key[1], key[0])
            yield from guest_memfd.invalidate_begin(self.vm, slot, first, first + count)
            self.world.punch(self.world.view.slots[key], first, count)
            yield from guest_memfd.invalidate_end(self.vm, slot, first, first + count)

        return self.locked(act)

    def read_log(self, key: Key, chosen: Callable[[set[int]], set[int]]) -> KvmAgent[None]:
        """Get the log, with manual protection clear `chosen` pages of it; then they count as copied."""
        return self.locked(lambda: self._read_log(key, chosen))

    def _read_log(self, key: Key, chosen: Callable[[set[int]], set[int]]) -> KvmAgent[None]:
        vm, world = self.vm, self.world
        slot = world.view.slots.get(key)
        if slot is None or not slot.flags & LOG_DIRTY:
            return
        if vm.params.dirty_ring_size:
            found = {entry for vcpu in vm.vcpus for entry in dirty_ring.collect(vcpu)}
            yield from dirty_ring.reset_rings(vm)
            for where, page in found:
                world.unreported.get((where >> 16, where & 0xFFFF), set()).discard(page)
            return
        found_pages: set[int] = yield from dirty.get_dirty_log(vm, vm.slots.logged(key[1], key[0]))
        assert all(page < slot.npages for page in found_pages)
        if vm.params.manual_protect:
            found_pages = chosen(found_pages)
            yield from dirty.clear_dirty_log(vm, vm.slots.logged(key[1], key[0]), 0, found_pages)
        world.unreported.get(key, set()).difference_update(found_pages)

    def check_log(self) -> None:
        """Nobody runs: the log of each slot holds every write that it has not reported yet."""
        assert not self.scheduler.tasks
        for key, pages in self.world.unreported.items():
            slot = self.vm.slots.existing(key[1], key[0])
            logged = set(slot.dirty)
            for vcpu in self.vm.vcpus:
                logged |= {page for where, page in vcpu.ring if where == key[0] << 16 | key[1]}
                if vcpu.as_id == key[0]:
                    logged |= {(gpa >> 12) - slot.base_gfn for gpa in vcpu.pml}
            assert pages <= logged, f"slot {key}: writes of pages {sorted(pages - logged)} are in no log"
