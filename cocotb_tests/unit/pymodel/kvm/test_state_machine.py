"""Random histories of a VM: tasks interleave effect by effect, against an oracle of dictionaries.

The oracle (`history.world`) knows which frame the guest may reach at each gfn and what it wrote; the processor
(`history.cpu`) reads the entries by itself and keeps a TLB that only a flush empties. Invariants of facts C12 are
checked after every effect (`history.scheduler`). A failure prints the blob that replays it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cocotb_tests.unit.pymodel.kvm.history.cpu import EXECUTE, READ, WRITE
from cocotb_tests.unit.pymodel.kvm.history.machine import HVA, History
from cocotb_tests.unit.pymodel.kvm.history.world import BLOCK, Slot
from pymodel.kvm import (
    attributes,
    dirty,
    fast_fault,
    fault,
    memory_type,
    notifier,
    nx_recovery,
    roots,
    slot_ops,
    write_track,
)
from pymodel.kvm.effects import AwaitInvalidations
from pymodel.kvm.fault import prefault
from pymodel.kvm.memslots import GUEST_MEMFD, LOG_DIRTY, READONLY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_12, V6_13, V6_18, KvmVersion
from pymodel.kvm.vm import Vm

SLOTS: dict[tuple[int, int], tuple[Slot, int]] = {
    (0, 0): (Slot(512, 1024, 0, 0), 4096),
    (0, 1): (Slot(2050, 600, 2048 + 2, 0), 5120),
    (0, 2): (Slot(6144, 512, 512, 0), 6144),
    (0, 3): (Slot(7168, 512, 8192, GUEST_MEMFD), 7168),
    (1, 0): (Slot(512, 1024, 0, 0), 512),
}
"""(address space, id) -> slot and where it moves to. Slot 2 shows the second half of slot 0 again, slot 1 starts
inside a huge page, slot 3 has a guest_memfd; system management mode sees the memory of slot 0."""
GFNS = sorted({base + page for slot, other in SLOTS.values() for base in (slot.base, other)
               for page in (0, 1, 512) if page < slot.npages} | {0})  # fmt: skip
HOST_PAGES = sorted({slot.host + page for slot, _ in SLOTS.values() for page in (0, 1)})
KINDS = (READ, WRITE, WRITE, EXECUTE)
BUSY = 5
"""Tasks at a time."""

gfns = st.sampled_from(GFNS)
host_pages = st.sampled_from(HOST_PAGES)
counts = st.sampled_from([1, 1, 2, BLOCK])
seeds = st.integers(0, (1 << 32) - 1)
keys = st.sampled_from(sorted(SLOTS))


def _instead(new: Slot, _: Slot | None) -> Slot:
    """A change of a slot: another one, whatever was there."""
    return new


class KvmHistory(RuleBasedStateMachine):
    """Every rule starts a task; what runs when is a seed's choice."""

    @initialize(
        version=st.sampled_from([V6_1, V6_7, V6_8, V6_12, V6_13, V6_18]),
        table=st.sampled_from(["npt", "ept", "ept without A/D", "ept with PML"]),
        log=st.sampled_from(["get", "manual", "initially set", "ring"]),
        eager=st.booleans(), nx=st.booleans(), ranged=st.booleans(), zap_all=st.booleans(),
        logged=st.booleans(), deep=st.booleans(),
    )  # fmt: skip
    def start(self, version: KvmVersion, table: str, log: str, **flags: bool) -> None:
        """Two vCPUs, slots 0 and (1, 0), huge pages of the host behind the first."""
        fmt = None
        if table != "npt":
            fmt = ept(
                suppress_ve_empty=version.suppress_ve_empty, ad_enabled=table != "ept without A/D",
                software_ad=version.software_ad,
            )  # fmt: skip
        self.history = History(
            version, fmt, 2, eager_page_split=flags["eager"], nx_huge_pages=flags["nx"], ranged_flush=flags["ranged"],
            slot_zap_all=flags["zap_all"], log_by_dirty_bit=table == "ept with PML",
            manual_protect=log in ("manual", "initially set"), initially_set=log == "initially set",
            dirty_ring_size=1024 if log == "ring" else 0, recovery_ratio=1, root_level=5 if flags["deep"] else 4,
        )  # fmt: skip
        self.history.world.prefers_huge = {0, BLOCK}
        for key in ((0, 0), (1, 0)):
            slot = replace(SLOTS[key][0], flags=LOG_DIRTY if flags["logged"] else 0)
            self.history.spawn("create", self.history.set_slot(key, partial(_instead, slot)))
        self.history.settle()

    def begin(self, seed: int, name: str, agent: Any, focus: Sequence[int]) -> None:
        """Start a task, with both guests busy around the gfns of `focus`, and let all run for a while."""
        self.history.spawn(name, agent)
        self.go(seed, focus)

    def go(self, seed: int, focus: Sequence[int]) -> None:
        """Guests make accesses, now and then a log is read; all run for a while, or to the end."""
        scheduler, random = self.history.scheduler, Random(seed)
        scheduler.random = random
        for vcpu in range(2):
            near = list(focus) or GFNS
            self.history.guest(
                vcpu,
                [(random.choice(near if random.random() < 0.8 else GFNS), random.choice(KINDS))
                 for _ in range(random.randrange(8))],
            )  # fmt: skip
        logged = sorted(key for key, slot in self.slots.items() if slot.flags & LOG_DIRTY)
        if logged and random.random() < 0.3:
            end = random.choice((1, BLOCK, 4096))
            read = self.history.read_log(random.choice(logged), lambda found: {page for page in found if page < end})
            self.history.spawn("log", read)
        if len(scheduler.tasks) > BUSY or random.random() < 0.3:
            self.history.settle()
            self.history.check_log()
        else:
            scheduler.run(random.choice((0, 10, 100, 300)))

    def near(self, page: int, count: int) -> list[int]:
        """gfns that show some of these host pages."""
        shown = {page, page + 1, page + count - 1}
        return [slot.base + one - slot.host for slot in self.slots.values() for one in shown
                if slot.page(slot.base + one - slot.host) is not None]  # fmt: skip

    def inside(self, key: tuple[int, int]) -> list[int]:
        """gfns of a slot, where it is and where it may go."""
        slot, other = SLOTS[key]
        return [base + page for base in (slot.base, other) for page in (0, 1)]

    @property
    def slots(self) -> dict[tuple[int, int], Slot]:
        """What is set up, or about to be."""
        return self.history.world.views[-1].slots

    # --- guests --------------------------------------------------------------------------------------------

    @rule(seed=seeds, focus=st.lists(gfns, max_size=3))
    def guests(self, seed: int, focus: list[int]) -> None:
        """Both vCPUs at once, on the same pages."""
        self.go(seed, focus)

    @rule(seed=seeds, vcpu=st.integers(0, 1), what=st.sampled_from(["smm", "guest of the guest", "reload"]))
    def switch(self, seed: int, vcpu: int, what: str) -> None:
        """Another role, or control registers that change."""
        history = self.history
        unit = history.processors[vcpu].vcpu
        if what == "reload":
            history.on_vcpu(vcpu, roots.free_roots(history.vm, unit))
        elif what == "smm":
            history.on_vcpu(vcpu, roots.switch_role(history.vm, unit, as_id=1 - unit.as_id))
        else:
            history.on_vcpu(vcpu, roots.switch_role(history.vm, unit, guest_mode=not unit.guest_mode))
        self.go(seed, ())

    @precondition(lambda self: self.history.vm.version.pre_fault)
    @rule(seed=seeds, vcpu=st.integers(0, 1), gfn=gfns)
    def pre_fault(self, seed: int, vcpu: int, gfn: int) -> None:
        """KVM_PRE_FAULT_MEMORY of one page."""
        history = self.history
        history.on_vcpu(vcpu, prefault(history.vm, history.processors[vcpu].vcpu, gfn << 12, 4096))
        self.go(seed, [gfn])

    # --- the host ------------------------------------------------------------------------------------------

    @rule(seed=seeds, page=host_pages, count=counts, how=st.sampled_from(["drop", "move", "copy", "refuse", "allow"]))
    def host_changes(self, seed: int, page: int, count: int, how: str) -> None:
        """MADV_DONTNEED, migration, fork, mprotect and back."""
        world = self.history.world
        changes = {
            "drop": lambda: world.drop(page, count),
            "move": lambda: world.move(page, count),
            "copy": lambda: world.protect(page, count, copy=True),
            "refuse": lambda: world.protect(page, count, refuses=True),
            "allow": lambda: world.protect(page, count),
        }
        self.begin(seed, how, self.history.change(page, count, changes[how]), self.near(page, count))

    @rule(seed=seeds, page=host_pages, how=st.sampled_from(["collapse", "split"]))
    def host_resizes(self, seed: int, page: int, how: str) -> None:
        """khugepaged, or split_huge_pmd."""
        world, block = self.history.world, page & -BLOCK
        change = world.collapse if how == "collapse" else world.split
        self.begin(seed, how, self.history.change(block, BLOCK, lambda: change(block)), self.near(page, 1))

    @rule(seed=seeds, page=host_pages, count=counts, how=st.sampled_from(["clear_flush", "clear", "test"]))
    def host_ages(self, seed: int, page: int, count: int, how: str) -> None:
        """Ageing, by reclaim or DAMON."""
        start, end = HVA + (page << 12), HVA + (page + count << 12)
        vm = self.history.vm
        agents = {
            "clear_flush": lambda: notifier.clear_flush_young(vm, start, end),
            "clear": lambda: notifier.clear_young(vm, start, end),
            "test": lambda: notifier.test_young(vm, start),
        }
        self.begin(seed, how, agents[how](), self.near(page, count))

    # --- userspace -----------------------------------------------------------------------------------------

    @rule(seed=seeds, key=keys, readonly=st.booleans())
    def create_or_delete(self, seed: int, key: tuple[int, int], readonly: bool) -> None:
        """A slot comes or goes."""
        new = SLOTS[key][0]
        new = replace(new, flags=new.flags or (READONLY if readonly else 0))
        change = self.history.set_slot(key, lambda slot: new if slot is None else None)
        self.begin(seed, "slot", change, self.inside(key))

    @rule(seed=seeds, key=keys)
    def move(self, seed: int, key: tuple[int, int]) -> None:
        """To its other place, or back; what would overlap is refused."""
        home, other = SLOTS[key]

        def moved(slot: Slot | None) -> Slot | None:
            return slot and replace(slot, base=other if slot.base == home.base else home.base)

        self.begin(seed, "move", self.history.set_slot(key, moved), self.inside(key))

    @rule(seed=seeds, key=keys)
    def log_or_not(self, seed: int, key: tuple[int, int]) -> None:
        """Dirty logging of a slot; refused for one with a guest_memfd."""
        flip = self.history.set_slot(key, lambda slot: slot and replace(slot, flags=slot.flags ^ LOG_DIRTY))
        self.begin(seed, "flags", flip, self.inside(key))

    @precondition(lambda self: self.history.vm.version.private_memory)
    @rule(seed=seeds, gfn=gfns, count=counts, private=st.booleans())
    def convert(self, seed: int, gfn: int, count: int, private: bool) -> None:
        """Private or shared."""
        self.begin(seed, "convert", self.history.set_private(gfn, gfn + count, private), [gfn])

    @precondition(lambda self: (0, 3) in self.history.world.view.slots)
    @rule(seed=seeds, page=st.sampled_from([0, 1]))
    def punch(self, seed: int, page: int) -> None:
        """A hole in guest_memfd."""
        self.history.settle()
        if (0, 3) in self.slots:
            self.begin(seed, "punch", self.history.punch((0, 3), page, 1), [SLOTS[0, 3][0].base + page])

    @rule(seed=seeds, gfn=gfns)
    def track(self, seed: int, gfn: int) -> None:
        """Write tracking on, or off again."""
        self.begin(seed, "track", self.history.track(gfn), [gfn])

    @rule(seed=seeds, what=st.sampled_from(["recover", "on", "off"]))
    def nx(self, seed: int, what: str) -> None:
        """The NX mitigation and its recovery."""
        vm = self.history.vm
        self.begin(seed, "nx", nx_recovery.recover(vm) if what == "recover" else self._mitigation(what == "on"), ())

    def _mitigation(self, wanted: bool) -> Any:
        return self.history.locked(lambda: nx_recovery.set_mitigation(self.history.vm, wanted))

    @rule(seed=seeds)
    def device(self, seed: int) -> None:
        """A device whose DMA does not snoop comes or goes."""
        vm = self.history.vm
        change = memory_type.unregister_noncoherent if vm.noncoherent_devices else memory_type.register_noncoherent
        self.begin(seed, "device", change(vm), ())

    def teardown(self) -> None:
        """Everybody comes to an end, every page is looked at once more, and the VM leaves nothing behind."""
        if not hasattr(self, "history") or self.history.scheduler.broken:
            return
        history = self.history
        history.settle()
        history.check_log()
        history.guest(0, [(gfn, READ) for gfn in GFNS])
        history.guest(1, [(gfn, WRITE) for gfn in GFNS])
        history.settle()
        history.check_log()
        history.spawn("release", roots.release(history.vm))
        history.settle()
        history.spawn("destroy", roots.destroy(history.vm))
        history.settle()
        assert not history.vm.tables
        assert not history.vm.roots


TestKvmHistory = KvmHistory.TestCase
TestKvmHistory.settings = settings(
    max_examples=24, stateful_step_count=25, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def _nothing(*_: Any) -> Any:
    yield from ()


def _no_zap(*_: Any) -> Any:
    yield from ()
    return False


Act = Callable[[KvmHistory, int], object]

DEFECTS: dict[str, tuple[Any, str, Any, str, Act]] = {
    "a fault does not mark the page dirty": (
        fault, "mark_dirty", _nothing, "are in no log", lambda one, n: one.guests(n, [512, 513]),
    ),
    "the fast path does not mark it": (
        fast_fault, "mark_dirty", _nothing, "are in no log", lambda one, n: one.guests(n, [512, 513]),
    ),
    "a notifier does not flush": (
        notifier, "flush_all", _nothing, "reached frame", lambda one, n: one.host_changes(n, 0, 1, "move"),
    ),
    "nobody looks at the sequence": (
        Vm, "retry", lambda *_: False, "reached frame|F2", lambda one, n: one.host_changes(n, 0, 1, "move"),
    ),
    "a conversion does not zap": (
        attributes, "unmap_range", _no_zap, "reached frame|I2", lambda one, n: one.convert(n, 512, 1, n % 2 == 0),
    ),
    "a slot goes with its entries in place": (
        slot_ops, "unmap_range", _no_zap, "reached frame|I2", lambda one, n: one.create_or_delete(n, (0, 0), False),
    ),
    "a slot goes while faults use it": (
        slot_ops, "SrcuSynchronize", AwaitInvalidations, "emulated|reached frame",
        lambda one, n: one.create_or_delete(n, (0, 0), False),
    ),
    "a tracked page stays writable": (
        write_track, "write_protect_gfn", _no_zap, "reached frame", lambda one, n: one.track(n, 512),
    ),
    "the log is given out without a flush": (
        dirty, "flush_all", _nothing, "are in no log", lambda one, n: one.guests(n, [512, 513]),
    ),
}  # fmt: skip
"""Module or class, what is replaced in it by what, the finding, and the rule that is run until it is found."""


def _drive(act: Act) -> None:
    """Fifty times the same rule on a VM whose slots are logged, without hypothesis: a seed means the same for ever."""
    state = KvmHistory()
    state.start(V6_12, "npt", "get", eager=True, nx=False, ranged=False, zap_all=False, logged=True,
                deep=False)  # fmt: skip
    for number in range(50):
        act(state, number)
    state.teardown()


@pytest.mark.parametrize("name", DEFECTS)
def test_broken_twin_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle finds each of these defects, and nothing where there is none."""
    where, what, instead, finding, act = DEFECTS[name]
    _drive(act)
    monkeypatch.setattr(where, what, instead)
    with pytest.raises(AssertionError, match=finding):
        _drive(act)
