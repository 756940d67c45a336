"""Host software for benches: builds the structures that the IOMMU reads and drives its queue, as agents.

`Host` owns root, context and PASID tables, domains and the invalidation queue. What has to happen in time
is an agent (a generator of effects); `build` runs an agent at once, for the state before the first cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pymodel.effects import Agent, Delay, ReadRegister, Store, WaitFor, WriteRegister, run_untimed
from pymodel.memory import PhysMem
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import Range, cover, exact_blocks
from pymodel.paging.table import PagePool, PageTable
from pymodel.spec import descriptors as d
from pymodel.spec.context import (
    LEGACY_CONTEXT,
    LEGACY_ROOT,
    PASID_DIRECTORY,
    PASID_ENTRY,
    PGTT_PASS_THROUGH,
    PGTT_SECOND_STAGE,
    RTADDR,
    SCALABLE_CONTEXT,
    SCALABLE_ROOT_HALF,
    TT_PASS_THROUGH,
)
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import GCMD, IQA, REGISTERS

__all__ = ["RAM", "Device", "Domain", "Host", "no_operation"]

T = TypeVar("T")

RAM = (0x0010_0000, 0x2000_0000)
"""Readable memory of the benches, half open; tables are allocated from its start, queues lie at its end."""

_STATUS = RAM[1] - 0x1000
_QUEUE = RAM[1] - 0x0010_0000
_MASK64 = (1 << 64) - 1


@dataclass
class Domain:
    """An address space: a page table and its domain id."""

    did: int
    table: PageTable


@dataclass
class Device:
    """One function, or one PASID of it, and what its entry says."""

    sid: int
    pasid: int | None = None
    domain: Domain | None = None
    """None: pass-through."""
    fpd: int = 0
    pgsnp: int = 0
    did: int = 0
    """Domain id of a pass-through entry."""


def no_operation(wide: bool) -> tuple[int, ...]:
    """A descriptor without effect, as 64-bit words: an invalidation of the interrupt cache."""
    return _words(d.INTERRUPT_INV.pack(type=d.DescriptorType.INTERRUPT), 4 if wide else 2)


def _words(value: int, count: int) -> tuple[int, ...]:
    return tuple(value >> 64 * word & _MASK64 for word in range(count))


@dataclass
class Host:
    """Software of one IOMMU. `scalable` chooses the mode, `wide` 256-bit descriptors, `size_code` is
    IQA.QS."""

    params: IommuParams
    memory: PhysMem
    scalable: bool = False
    wide: bool = False
    size_code: int = 0
    queue_base: int = _QUEUE
    status_base: int = _STATUS
    rid_pasid: int = 0
    """PASID of requests that carry none, scalable mode."""
    pool: PagePool = field(init=False)
    root: int = field(init=False)
    tail: int = 0
    """Byte offset at which the next descriptor goes."""

    def __post_init__(self) -> None:
        self.pool = PagePool(RAM[0], self.queue_base, self.memory.clear_page)
        self.root = self.pool.allocate()
        self.format = SecondStage.of(self.params)
        self._tables: dict[tuple[int, ...], int] = {}
        self._serial = 0
        self._submitted = self._finished = 0  # descriptors put, and known to be done
        self._locked = False

    # --- structures ----------------------------------------------------------------------------------------

    def build(self, agent: Agent[T]) -> T:
        """Run an agent at once: for what is there before the first cycle."""
        return run_untimed(agent, self.memory)

    def domain(self, did: int, levels: int | None = None) -> Domain:
        """A domain with an empty table."""
        depth = self.params.max_levels if levels is None else levels
        return Domain(did, PageTable(self.format, self.pool.allocate(), depth, self.pool))

    def _table(self, *key: int) -> tuple[int, bool]:
        """Page of a structure that is made when it is first needed; True if it is new."""
        page = self._tables.get(key)
        if page is not None:
            return page, False
        page = self._tables[key] = self.pool.allocate()
        return page, True

    def entry_address(self, device: Device) -> int:
        """Address of the entry that decides about the device: context entry, or PASID entry in scalable
        mode."""
        bus, devfn = device.sid >> 8, device.sid & 255
        if not self.scalable:
            return self._table(0, bus)[0] + 16 * devfn
        pasid = self.rid_pasid if device.pasid is None else device.pasid
        return self._table(2, device.sid, pasid >> 6)[0] + 64 * (pasid & 63)

    def entry(self, device: Device) -> tuple[int, ...]:
        """The entry as 64-bit words."""
        domain = device.domain
        if not self.scalable:
            if domain is None:
                aw = self.params.max_levels - 2
                value = LEGACY_CONTEXT.pack(p=1, fpd=device.fpd, tt=TT_PASS_THROUGH, aw=aw, did=device.did)
            else:
                value = LEGACY_CONTEXT.pack(
                    p=1,
                    fpd=device.fpd,
                    table=domain.table.root >> 12,
                    aw=domain.table.levels - 2,
                    did=domain.did,
                )
            return _words(value, 2)
        if domain is None:
            value = PASID_ENTRY.pack(
                p=1, fpd=device.fpd, pgtt=PGTT_PASS_THROUGH, pgsnp=device.pgsnp, did=device.did
            )
        else:
            value = PASID_ENTRY.pack(
                p=1, fpd=device.fpd, pgtt=PGTT_SECOND_STAGE, table=domain.table.root >> 12,
                aw=domain.table.levels - 2, did=domain.did, pgsnp=device.pgsnp,
            )  # fmt: skip
        return _words(value, 8)

    def attach(self, device: Device) -> Agent[None]:
        """Make the tables on the way to the device's entry and write it, the word with P last."""
        bus, devfn = device.sid >> 8, device.sid & 255
        if self.scalable:
            contexts, new = self._table(1, bus, devfn >> 7)
            if new:
                word = SCALABLE_ROOT_HALF.pack(p=1, context_table=contexts >> 12)
                yield Store(self.root + 16 * bus + 8 * (devfn >> 7), word)
            pasid = self.rid_pasid if device.pasid is None else device.pasid
            directory, new = self._table(3, device.sid)
            if new:
                value = SCALABLE_CONTEXT.pack(
                    p=1, paside=1, pdts=0, pasid_directory=directory >> 12, rid_pasid=self.rid_pasid
                )
                yield from self._write(contexts + 32 * (devfn & 127), _words(value, 4))
            table, new = self._table(2, device.sid, pasid >> 6)
            if new:
                yield Store(directory + 8 * (pasid >> 6), PASID_DIRECTORY.pack(p=1, table=table >> 12))
        else:
            contexts, new = self._table(0, bus)
            if new:
                yield Store(self.root + 16 * bus, LEGACY_ROOT.pack(p=1, context_table=contexts >> 12))
        yield from self._write(self.entry_address(device), self.entry(device))

    def detach(self, device: Device) -> Agent[None]:
        """Clear P of the device's entry; the invalidations are the caller's."""
        yield Store(self.entry_address(device), 0)

    def _write(self, address: int, words: Sequence[int]) -> Agent[None]:
        for position in reversed(range(len(words))):
            yield Store(address + 8 * position, words[position])

    # --- registers -----------------------------------------------------------------------------------------

    @property
    def rtaddr(self) -> int:
        """Value of RTADDR."""
        return RTADDR.pack(address=self.root >> 12, ttm=int(self.scalable))

    def start(self, translation: bool = True) -> Agent[None]:
        """Root table, queue, and translation on."""
        yield WriteRegister(REGISTERS["RTADDR"].offset, self.rtaddr, 8)
        yield WriteRegister(REGISTERS["GCMD"].offset, GCMD.pack(srtp=1))
        yield from self.start_queue()
        if translation:
            yield WriteRegister(REGISTERS["GCMD"].offset, GCMD.pack(te=1, qie=1))

    def start_queue(self) -> Agent[None]:
        """Queue registers, tail 0, QIE."""
        value = IQA.pack(qs=self.size_code, dw=int(self.wide), address=self.queue_base >> 12)
        yield WriteRegister(REGISTERS["IQA"].offset, value, 8)
        yield WriteRegister(REGISTERS["IQT"].offset, 0, 8)
        yield WriteRegister(REGISTERS["GCMD"].offset, GCMD.pack(qie=1))
        self.tail = 0

    def restart(self) -> None:
        """After a reset of the IOMMU: the queue is empty, and none of the agents that used it is left."""
        self.tail = 0
        self._locked = False
        self._finished = self._submitted

    # --- invalidation queue --------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Bytes of a descriptor."""
        return 32 if self.wide else 16

    @property
    def queue_bytes(self) -> int:
        """Bytes of the queue."""
        return 1 << self.size_code + 12

    def lock(self) -> Agent[None]:
        """Wait for the queue; several agents may use it."""
        while self._locked:
            yield Delay(1)
        self._locked = True

    def unlock(self) -> None:
        """Let others use the queue."""
        self._locked = False

    def put(self, *values: int, ring: bool = True) -> Agent[None]:
        """Write descriptors at the tail and ring the doorbell; the caller holds the lock and keeps room."""
        for value in values:
            for position, word in enumerate(_words(value, self.step // 8)):
                yield Store(self.queue_base + self.tail + 8 * position, word)
            self.tail = (self.tail + self.step) % self.queue_bytes
        self._submitted += len(values)
        if ring:
            yield WriteRegister(REGISTERS["IQT"].offset, self.tail, 8)

    def wait_descriptor(self, *, interrupt: int = 0, fence: int = 0) -> tuple[int, int, int]:
        """A wait with a status write that nobody else uses: (descriptor, status address, data)."""
        self._serial += 1
        address = self.status_base + 8 * (self._serial % 256)
        value = d.WAIT.pack(
            type=d.DescriptorType.WAIT, interrupt=interrupt, status_write=1, fence=fence, data=self._serial,
            address=address >> 2,
        )  # fmt: skip
        return value, address, self._serial

    def sync(self, *values: int, interrupt: int = 0, fence: int = 0) -> Agent[None]:
        """Submit descriptors and a wait, and go on when its status was written."""
        yield from self.lock()
        while self.in_flight + len(values) + 2 > self.queue_bytes // self.step:
            self.unlock()
            yield Delay(16)
            yield from self.lock()
        wait, address, data = self.wait_descriptor(interrupt=interrupt, fence=fence)
        yield from self.put(*values, wait)
        mark = self._submitted
        self.unlock()
        yield WaitFor(address, 0xFFFF_FFFF, data)
        self._finished = max(self._finished, mark)

    def submit(self, *values: int) -> Agent[None]:
        """Submit descriptors without waiting for them; makes room with a wait when the queue is half full."""
        if (self.in_flight + len(values)) * self.step * 2 > self.queue_bytes:
            yield from self.sync()
        yield from self.lock()
        yield from self.put(*values)
        self.unlock()

    @property
    def in_flight(self) -> int:
        """Descriptors that may not be done yet."""
        return self._submitted - self._finished

    def read_head(self) -> Agent[int]:
        """IQH."""
        head: int = yield ReadRegister(REGISTERS["IQH"].offset, 8)
        return head

    # --- descriptors ---------------------------------------------------------------------------------------

    def page_descriptors(self, did: int, range_: Range, ih: int = 0, exact: bool = True) -> list[int]:
        """Page-selective IOTLB invalidations for a range; one larger block unless `exact`. A block that no
        AM can name becomes a domain invalidation."""
        blocks = list(exact_blocks(range_, self.params.max_address_mask)) if exact else [cover(range_)]
        if blocks[0].am > self.params.max_address_mask or len(blocks) > 16:
            return [self.domain_descriptor(did)]
        return [
            d.IOTLB_INV.pack(
                type=d.DescriptorType.IOTLB, g=d.Granularity.SELECTIVE, did=did, am=block.am, ih=ih,
                address=block.start >> 12, dr=1, dw=1,
            )
            for block in blocks
        ]  # fmt: skip

    def domain_descriptor(self, did: int) -> int:
        """IOTLB invalidation of a domain."""
        return d.IOTLB_INV.pack(type=d.DescriptorType.IOTLB, g=d.Granularity.DOMAIN, did=did, dr=1, dw=1)

    def global_descriptor(self) -> int:
        """IOTLB invalidation of everything."""
        return d.IOTLB_INV.pack(type=d.DescriptorType.IOTLB, g=d.Granularity.GLOBAL)

    def context_descriptors(self, device: Device, did: int) -> list[int]:
        """What drops the cached entry of a device: PASID cache in scalable mode, context cache in legacy
        mode."""
        if self.scalable:
            pasid = self.rid_pasid if device.pasid is None else device.pasid
            return [
                d.PASID_CACHE_INV.pack(
                    type=d.DescriptorType.PASID_CACHE, g=d.PasidGranularity.PASID, did=did, pasid=pasid
                )
            ]
        return [
            d.CONTEXT_INV.pack(
                type=d.DescriptorType.CONTEXT, g=d.Granularity.SELECTIVE, did=did, sid=device.sid, fm=0
            )
        ]
