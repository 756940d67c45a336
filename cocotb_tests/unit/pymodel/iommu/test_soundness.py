"""A caching IOMMU with walks in flight and random hits against the judge; broken twins must be caught.

The reference machine does what facts F1 allows: it walks level by level at random times, starts at any cached
pointer, and applies invalidations at a random moment between doorbell and completion.
"""

import random
from dataclasses import dataclass, field

import pytest

from cocotb_tests.unit.pymodel.iommu.setting import DID, SID, Setting, page
from pymodel.iommu import Outcome, Request
from pymodel.iommu.queue import ContextInvalidation, IotlbInvalidation
from pymodel.spec.descriptors import Granularity
from pymodel.spec.faults import Reason
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.second_stage import level_shift

TABLES = [0x40000 + 0x1000 * number for number in range(6)]
IOVAS = [index << 12 for index in (0, 1, 8, 512, 513, 1 << 18, (1 << 18) + 512)]


@dataclass
class Machine:
    """Caches as lists of copies; `broken` names what it forgets."""

    setting: Setting
    rnd: random.Random
    broken: str = ""
    leaves: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(level, block, entry, permission)."""
    pointers: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(level, block, table below, permission)."""
    walks: list[list[int]] = field(default_factory=list)
    """[iova, write, accepted, level to be read, table, permission]."""

    def accept(self, iova: int, write: bool) -> Outcome | None:
        """A request: answered by a leaf, or a walk is started somewhere."""
        found = [one for one in self.leaves if one[1] == iova >> level_shift(one[0])]
        if found and self.rnd.random() < 0.9:
            level, _, entry, permission = self.rnd.choice(found)
            return self.answer(iova, write, level, entry, permission)
        starts = [(3, 0x10000, 3)]
        for level, block, below, permission in self.pointers:
            if block == iova >> level_shift(level):
                starts.append((level - 1, below, permission))
        level, table, permission = self.rnd.choice(starts)
        self.walks.append([iova, write, self.setting.time, level, table, permission])
        return None

    def answer(self, iova: int, write: bool, level: int, entry: int, permission: int) -> Outcome:
        """The outcome that a leaf gives."""
        if not permission & (2 if write else 1):
            return Outcome(Reason.WRITE_DENIED if write else Reason.READ_DENIED)
        offset = iova & ((1 << level_shift(level)) - 1)
        address = entry & ((1 << 48) - 1) & -(1 << level_shift(level))
        return Outcome(Reason.NONE, address | offset, level, bool(permission & 1), bool(permission & 2))

    def step(self) -> tuple[int, bool, int, Outcome] | None:
        """One read of one walk; (iova, write, accepted, outcome) if it ends."""
        if not self.walks:
            return None
        walk = self.rnd.choice(self.walks)
        iova, write, accepted, level, table, permission = walk
        entry = self.setting.memory.load(table + 8 * ((iova >> level_shift(level)) & 511))
        denied = Outcome(Reason.WRITE_DENIED if write else Reason.READ_DENIED)
        permission &= entry
        if not permission & 3:
            self.walks.remove(walk)
            return iova, bool(write), accepted, denied
        if level == 0 or entry & 0x80:
            self.walks.remove(walk)
            self.leaves.append((level, iova >> level_shift(level), entry, permission))
            return iova, bool(write), accepted, self.answer(iova, bool(write), level, entry, permission)
        below = entry & ((1 << 48) - 1) & -4096
        if self.rnd.random() < 0.7:
            self.pointers.append((level, iova >> level_shift(level), below, permission))
        walk[3:] = [level - 1, below, permission]
        return None

    def apply(self, inv: IotlbInvalidation | ContextInvalidation) -> None:
        """Drop what the invalidation covers; walks in flight start again."""
        if isinstance(inv, ContextInvalidation):
            return
        params = self.setting.judge.params
        low, high = inv.address, inv.address + (4096 << inv.am)
        everything = inv.granularity is not Granularity.SELECTIVE

        def covered(level: int, block: int, scope: Architecture) -> bool:
            start, size = block << level_shift(level), 1 << level_shift(level)
            fits = scope is Architecture.VTD or size <= high - low
            return everything or (start < high and start + size > low and fits)

        if self.broken != "leaf":
            self.leaves = [one for one in self.leaves if not covered(one[0], one[1], params.inval_scope)]
        if not inv.ih and self.broken != "pointer":
            scope = params.psc_scope
            self.pointers = [one for one in self.pointers if not covered(one[0], one[1], scope)]
        if self.broken != "walk":
            for walk in self.walks:
                # A walk holds the pointer that led to its table: it goes where a cached copy would go.
                holds = walk[3] < 3 and not inv.ih
                level = walk[3] + 1
                if low <= walk[0] < high or everything or (
                    holds and covered(level, walk[0] >> level_shift(level), params.psc_scope)
                ):
                    walk[3:] = [3, 0x10000, 3]


def change(setting: Setting, rnd: random.Random) -> None:
    """A random store into one of the entries that the addresses use."""
    iova, level = rnd.choice(IOVAS), rnd.choice((0, 0, 0, 1, 1, 2))
    table = rnd.choice(TABLES) if level < 2 or rnd.random() < 0.5 else 0x11000
    kind = rnd.random()
    if kind < 0.25:
        value = 0
    elif level == 0 or kind < 0.4:
        value = rnd.randrange(1, 8) << 30 | rnd.choice((1, 2, 3, 3, 3)) | (0x80 if level else 0)
        if level == 0:
            value |= rnd.randrange(64) << 12
    else:
        value = rnd.choice(TABLES) | rnd.choice((1, 3, 3, 3))
    setting.store(table + 8 * ((iova >> level_shift(level)) & 511), value)


def run(seed: int, broken: str, params: IommuParams, steps: int = 400) -> list[str]:
    """Complaints of the judge about one random run."""
    rnd = random.Random(seed)
    setting = Setting(params)
    machine = Machine(setting, rnd, broken)
    complaints: list[str] = []

    def judge(iova: int, write: bool, accepted: int, outcome: Outcome) -> None:
        violation = setting.judge.check(Request(SID, None, iova, write), accepted, setting.time, outcome)
        if violation is not None:
            complaints.append(str(violation))

    queue: list[IotlbInvalidation | ContextInvalidation] = []
    applied = 0
    for _ in range(steps):
        setting.tick()
        choice = rnd.random()
        if choice < 0.2:
            change(setting, rnd)
        elif choice < 0.45:
            iova, write = rnd.choice(IOVAS) | rnd.randrange(0, 4096, 8), rnd.random() < 0.4
            outcome = machine.accept(iova, write)
            if outcome is not None:
                judge(iova, write, setting.time, outcome)
        elif choice < 0.8:
            ended = machine.step()
            if ended is not None:
                judge(*ended)
        elif choice < 0.88:
            am = rnd.choice((0, 0, 0, 1, 9, 18))
            base = rnd.choice(IOVAS) & -(4096 << am)
            inv: IotlbInvalidation | ContextInvalidation = page(base, am, rnd.random() < 0.4)
            if rnd.random() < 0.1:
                inv = IotlbInvalidation(rnd.choice((Granularity.DOMAIN, Granularity.GLOBAL)), DID)
            setting.submit(inv)
            queue.append(inv)
        elif choice < 0.94 and applied < len(queue):
            machine.apply(queue[applied])
            applied += 1
        elif queue and applied == len(queue):
            setting.complete()
            queue.clear()
            applied = 0
    return complaints


VARIANTS = [
    IommuParams(),
    IommuParams(inval_scope=Architecture.AMD),
    IommuParams(psc_scope=Architecture.AMD),
    IommuParams(inval_scope=Architecture.AMD, psc_scope=Architecture.AMD),
]


@pytest.mark.parametrize("params", VARIANTS, ids=("vtd", "amd-leaves", "amd-pointers", "amd"))
def test_a_conforming_machine_is_never_blamed(params: IommuParams) -> None:
    for seed in range(150):
        complaints = run(seed, "", params)
        assert complaints == [], f"seed {seed}: {complaints[0]}"


@pytest.mark.parametrize("broken", ["leaf", "pointer", "walk"])
def test_a_broken_machine_is_caught(broken: str) -> None:
    caught = sum(bool(run(seed, broken, IommuParams())) for seed in range(60))
    assert caught > 0, f"a machine that forgets its {broken} invalidation was never caught in 60 runs"
