"""Tasks that interleave effect by effect, with KVM's locks; after each effect the invariants of facts C12."""

from collections.abc import Callable
from random import Random
from typing import Any, get_args

from pymodel import effects as base
from pymodel.effects import Effect, FetchAnd, FetchOr, Store, effect_type
from pymodel.kvm.effects import (
    AllocateNow,
    AwaitInvalidations,
    KvmAgent,
    MmuLock,
    MmuUnlock,
    Resched,
    SpteChanged,
    SrcuEnter,
    SrcuLeave,
    SrcuSynchronize,
    TlbFlush,
    Trace,
    Wbinvd,
)
from pymodel.kvm.invariants import InvariantError, check, check_entries
from pymodel.kvm.spte import pages
from pymodel.kvm.vm import Table, Vm
from pymodel.memory import PhysMem

__all__ = ["Scheduler", "SlotsLock", "Task"]

_MEMORY = frozenset(get_args(Effect))
_LIVELOCK = 400_000
"""Effects after which tasks that should end are taken to spin."""


@effect_type
class SlotsLock:
    """Take or release kvm->slots_lock, that operations of userspace hold."""

    take: bool


class Task:
    """One thread of the kernel, or a vCPU."""

    def __init__(self, name: str, agent: KvmAgent[Any]) -> None:
        self.name = name
        self.agent = agent
        self.pending: Any = next(agent, None)
        self.readers: list[Task] | None = None
        """Tasks that `SrcuSynchronize` waits for."""


class Scheduler:
    """Runs tasks in a random order that its `Random` fixes."""

    def __init__(self, vm: Vm, memory: PhysMem, on_flush: Callable[[TlbFlush], None]) -> None:
        self.vm = vm
        self.memory = memory
        self.tasks: list[Task] = []
        self.broken = False
        """A run ended with an exception: tasks are in the middle of an effect."""
        self.random = Random(0)
        self._on_flush = on_flush
        self._writer: Task | None = None
        self._lock_readers: list[Task] = []
        self._srcu: list[Task] = []
        self._slots_owner: Task | None = None
        self._frozen: dict[int, Task | None] = {}
        """Who froze a linked entry."""
        self._changes: list[tuple[int, int, int]] = []
        self._stores = 0
        self._checked: object = None
        """What `check` saw last."""
        self._words: dict[int, dict[int, int]] = {}
        """Entries that are not empty, by table frame and index."""
        memory.observers.append(self._observe)

    def _observe(self, address: int, old: int, new: int) -> None:
        words = self._words.setdefault(address >> 12, {})
        if new == self.vm.fmt.empty:
            words.pop(address >> 3 & 511, None)
        else:
            words[address >> 3 & 511] = new
        self._changes.append((address, old, new))
        self._stores += 1

    def recycle(self, frame: int) -> None:
        """A freed table page is zeroed, to be handed out anew."""
        self.memory.clear_page(frame << 12)
        self._words.pop(frame, None)
        self._changes.clear()

    # --- running -------------------------------------------------------------------------------------------

    def spawn(self, name: str, agent: KvmAgent[Any]) -> None:
        """One more task, at its first effect."""
        task = Task(name, agent)
        if task.pending is not None:
            self.tasks.append(task)

    def run(self, budget: int | None = None) -> None:
        """Run `budget` effects, or until every task has ended."""
        self.broken = True
        left = _LIVELOCK if budget is None else budget
        while self.tasks and left > 0:
            ready = [task for task in self.tasks if not self._blocked(task)]
            assert ready, f"deadlock: {[(task.name, task.pending) for task in self.tasks]}"
            task = self.random.choice(ready)
            burst = self.random.choice((1, 1, 3, 30, 300))
            while burst > 0 and task in self.tasks and not self._blocked(task):
                self.step(task)
                burst -= 1
                left -= 1
        assert budget is not None or not self.tasks, f"livelock: {[(task.name, task.pending) for task in self.tasks]}"
        self.broken = False

    def _blocked(self, task: Task) -> bool:
        effect = task.pending
        kind = type(effect)
        if kind is MmuLock:
            return self._writer is not None or (effect.write and bool(self._lock_readers))
        if kind is AwaitInvalidations:
            return self.vm.notifiers_active > 0
        if kind is SlotsLock:
            return effect.take and self._slots_owner is not None
        if kind is SrcuSynchronize:
            if task.readers is None:
                task.readers = list(self._srcu)
            return any(reader in self._srcu for reader in task.readers)
        return False

    def step(self, task: Task) -> None:
        """One effect of a task, and what must hold behind it."""
        effect, answer = task.pending, None
        kind = type(effect)
        if kind in _MEMORY:
            answer = base.apply(effect, self.memory)
            if self._changes:
                self._check_changes(task, effect)
        elif kind is not Trace and kind is not SpteChanged:
            answer = self._special(task, effect)
            self.check()
        try:
            task.pending = task.agent.send(answer)
        except StopIteration:
            self.tasks.remove(task)
            assert self._writer is not task, f"{task.name} ended with the lock"
            assert task not in self._lock_readers, f"{task.name} ended with the lock"
            self.check()

    def _special(self, task: Task, effect: Any) -> bool | None:
        kind = type(effect)
        if kind is TlbFlush:
            self._on_flush(effect)
        elif kind is MmuLock:
            if effect.write:
                self._writer = task
            else:
                self._lock_readers.append(task)
        elif kind is MmuUnlock:
            if effect.write:
                assert self._writer is task, f"{task.name} gives back a lock that it does not hold"
                self._writer = None
            else:
                self._lock_readers.remove(task)
        elif kind is Resched:
            return self.random.random() < 0.02
        elif kind is AllocateNow:
            return self.random.random() < 0.3
        elif kind is SrcuEnter:
            self._srcu.append(task)
        elif kind is SrcuLeave:
            self._srcu.remove(task)
        elif kind is SrcuSynchronize:
            task.readers = None
        elif kind is SlotsLock:
            self._slots_owner = task if effect.take else None
        else:
            assert kind in (AwaitInvalidations, Wbinvd), f"{task.name} asks for {effect}"
        return None

    # --- invariants ----------------------------------------------------------------------------------------

    def _root_of(self, table: Table) -> Table | None:
        """The root that a table is linked under, None for one that is not."""
        while table.parent:
            above = self.vm.tables.get(table.parent >> 12)
            value = self.memory.load(table.parent)
            if above is None or not self.vm.fmt.is_table(value, table.level + 1):
                return None
            if self.vm.fmt.pfn(value) != table.frame:
                return None
            table = above
        return table if table in self.vm.roots else None

    def _check_changes(self, task: Task, effect: Any) -> None:
        """F2, F3 and C4 of every linked entry that changed, and the invariants that one entry can break."""
        vm, fmt = self.vm, self.vm.fmt
        for address, old, new in self._changes:
            table = vm.tables.get(address >> 12)
            root = None if table is None else self._root_of(table)
            if table is None or root is None:
                continue
            level = table.level
            gfn = table.gfn + (address >> 3 & 511) * pages(level)
            if old == fmt.frozen:
                owner = self._frozen.pop(address, None)
                whose = "nobody" if owner is None else owner.name
                assert owner is task, f"I4: {task.name} wrote over a frozen entry of {whose}, gfn {gfn:#x}"
            elif type(effect) is Store:
                owned = self._writer is task
                assert owned, f"C0: {task.name} stores to gfn {gfn:#x} level {level} without the exclusive lock"
            if new == fmt.frozen:
                self._frozen[address] = task
            if fmt.is_present(old) and fmt.is_present(new) and type(effect) not in (FetchAnd, FetchOr):
                same_kind = fmt.is_leaf(old, level) == fmt.is_leaf(new, level)
                assert not same_kind or fmt.pfn(old) == fmt.pfn(new), f"F2/F3: gfn {gfn:#x} {old:#x} -> {new:#x}"
            assert fmt.is_present(old) or not new or new == fmt.empty or type(effect) not in (FetchAnd, FetchOr), (
                f"a dead entry of gfn {gfn:#x} got bits: {old:#x} -> {new:#x}"
            )
            check_entries(vm, root, {(level, gfn): new})
        self._changes.clear()

    def check(self) -> None:
        """I2, I3, I5 and I6 of every root, if entries or what they are held against changed since the last time."""
        vm = self.vm
        state = (self._stores, [vm.slots.generation(0), vm.slots.generation(1)], len(vm.roots), vm.private.ranges(),
                 vm.mmu_invalidate_in_progress)  # fmt: skip
        if state == self._checked:
            return
        self._checked = state
        for root in vm.roots:
            if root.frame not in vm.tables:
                raise InvariantError(f"I3: the root {root.frame:#x} was freed")
            check_entries(vm, root, self.entries(root))

    def entries(self, root: Table) -> dict[tuple[int, int], int]:
        """(level, gfn) -> value of every entry under a root that is not empty."""
        fmt, found = self.vm.fmt, {}
        pending = [(root.frame, root.level, 0)]
        while pending:
            frame, level, start = pending.pop()
            for index, value in self._words.get(frame, {}).items():
                gfn = start + index * pages(level)
                found[level, gfn] = value
                if fmt.is_table(value, level):
                    pending.append((fmt.pfn(value), level - 1, gfn))
        return found

    def check_settled(self) -> None:
        """Also I4, with the model's own reading of all memory."""
        check(self.vm, self.memory.load, settled=True)
