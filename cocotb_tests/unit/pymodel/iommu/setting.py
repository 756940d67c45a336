"""A small machine for tests of the judge: one device, one domain, tables at fixed places."""

from pymodel.iommu import Judge, Outcome, Request
from pymodel.iommu.coverage import Invalidation
from pymodel.iommu.queue import IotlbInvalidation
from pymodel.memory import PhysMem
from pymodel.spec import context as layout
from pymodel.spec.descriptors import Granularity
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

SID = 0x18
DID = 7
ROOT, CONTEXTS = 0x1000, 0x2000
PML4, PDPT, PD, PT = 0x10000, 0x11000, 0x12000, 0x13000
OTHER_PT = 0x14000
BASE = 0x4000_0000
"""What PT maps: 2 MiB from here, page for page."""
LEAF_2M = 0x83
M2 = 0x20_0000


def words(memory: PhysMem, address: int, value: int, count: int) -> None:
    """Store a record of `count` words."""
    for index in range(count):
        memory.store(address + 8 * index, value >> (64 * index) & ((1 << 64) - 1))


def context_entry(table: int = PML4, did: int = DID, **fields: int) -> int:
    """A present legacy context entry of 4 levels."""
    return layout.LEGACY_CONTEXT.pack(**{"p": 1, "table": table >> 12, "aw": 2, "did": did, **fields})


class Setting:
    """Judge, memory and a clock that moves by ten cycles with every event."""

    def __init__(self, params: IommuParams | None = None) -> None:
        self.memory = PhysMem()
        memory = self.memory
        memory.store(ROOT, CONTEXTS | 1)
        words(memory, CONTEXTS + 16 * SID, context_entry(), 2)
        memory.store(PML4, PDPT | 3)
        memory.store(PDPT, PD | 3)
        memory.store(PD, PT | 3)
        for index in range(512):
            if index != 9:
                memory.store(PT + 8 * index, BASE + 4096 * index | 3)
        self.judge = Judge(params or IommuParams(), memory)
        memory.observers.append(self.judge.stored)
        self.judge.set_root(0, ROOT)
        self.judge.enable(0, True)
        self.time = 0
        self.tick()

    def tick(self) -> int:
        """The next event's cycle."""
        self.time += 10
        self.judge.advance(self.time)
        return self.time

    def store(self, address: int, value: int) -> None:
        """Software stores a word."""
        self.tick()
        self.memory.store(address, value)

    def submit(self, invalidation: Invalidation) -> None:
        """The doorbell."""
        self.judge.submitted(self.tick(), invalidation)

    def complete(self) -> None:
        """The wait."""
        self.judge.completed(self.tick())
        self.tick()

    def invalidate(self, invalidation: Invalidation) -> None:
        """Submit and wait."""
        self.submit(invalidation)
        self.complete()

    def legal(self, iova: int, write: bool = False, sid: int = SID, pasid: int | None = None,
              accepted: int | None = None) -> frozenset[Outcome]:  # fmt: skip
        """Legal outcomes of an access answered now."""
        begin = self.time if accepted is None else accepted
        return self.judge.legal(Request(sid, pasid, iova, write), begin, self.time)

    def results(self, iova: int, write: bool = False, **more: int) -> set[int | str]:
        """The same as addresses and names of reasons."""
        return {one.reason.name if one.reason else one.address for one in self.legal(iova, write, **more)}


def page(iova: int, am: int = 0, ih: bool = False, did: int = DID) -> IotlbInvalidation:
    """Page-selective invalidation."""
    return IotlbInvalidation(Granularity.SELECTIVE, did, iova, am, ih)


DOMAIN = IotlbInvalidation(Granularity.DOMAIN, DID)
GLOBAL = IotlbInvalidation(Granularity.GLOBAL)


def hit(address: int, level: int = 0, r: bool = True, w: bool = True) -> Outcome:
    """A translation."""
    return Outcome(Reason.NONE, address, level, r, w)
