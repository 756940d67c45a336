"""Scenarios about walks: what entries say, permissions, replacement, contention, PASID tables."""

from cocotb_tests.harness.host import Device
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import Sample
from cocotb_tests.harness.patterns import ReadyPattern
from cocotb_tests.harness.scheduler import BenchAgent, Translate
from cocotb_tests.mutants.stage import FRAMES, SPARE, Stage
from pymodel.effects import Delay, Store
from pymodel.spec import descriptors as d
from pymodel.spec.second_stage import INTERRUPT_FIRST

__all__ = ["entries", "late", "pasids", "permissions", "pressure"]

_PAGE = 4096
_HOLE = 0x7F_FFFF_F000  # no memory answers there


def entries(context: JobContext, scalable: bool = False) -> LockStep:
    """Every kind of entry at every level, good and malformed, read twice, with what lies beside it in its line."""
    stage = Stage(context, latency=2, scalable=scalable)
    haw, top = context.params.haw, context.params.large_pages
    domain = stage.domain(0x31)
    device = stage.device(0x0300, domain)
    shallow = stage.device(0x0301, stage.domain(0x32, levels=min(context.params.levels)))
    lost = stage.device(0x0302, stage.domain(0x33))
    words = stage.host.entry_address(lost)
    stage.change(words, set_=_HOLE, clear=0xFF_FFFF_F000)  # a table root that cannot be read
    regions: list[tuple[int, int]] = []
    above = 1 << haw

    def place(level: int, leaf: bool, set_: int = 0, clear: int = 0, at: int = 0xABC) -> None:
        """One region whose entry at `level` is changed; it is read first at offset `at`."""
        iova = len(regions) + 1 << 39
        regions.append((iova, at))
        if leaf and level:
            stage.map(domain, iova, FRAMES, 1 << 9 * level, top=level)
        else:
            stage.map(domain, iova, FRAMES + (len(regions) << 20), 16)
        stage.change(stage.entry(domain, iova, level), set_=set_, clear=clear)

    for level in range(1, 4):
        for bit in (11, haw, 7 if level > min(top, 2) else 51):
            place(level, False, set_=1 << bit)
    place(0, True, set_=above)
    place(0, True, set_=1 << 11)
    place(1, True, set_=1 << 12)
    place(1, True, set_=1 << 20)
    place(1, True, set_=1 << 11 | 1 << 7)
    if top > 1:
        place(2, True, set_=1 << 29)
        place(2, True, at=0x1234_5678)
    place(1, True, at=0x1F_2468)
    place(0, True, clear=3)
    place(1, False, clear=3)
    place(1, False, set_=_HOLE, clear=0xFF_FFFF_F000)
    place(0, True, set_=INTERRUPT_FIRST, clear=0xFF_FFFF_F000)
    if top:
        place(1, True, set_=INTERRUPT_FIRST & -(1 << 21), clear=0xFF_FFE0_0000)
    neighbours = len(regions) + 1 << 39
    stage.map(domain, neighbours, SPARE, 24)
    for page, change in ((1, (0, 3)), (2, (above, 0)), (3, (0, 2)), (4, (0, 1)), (5, (1 << 11, 0))):
        stage.change(stage.entry(domain, neighbours + page * _PAGE), set_=change[0], clear=change[1])
    stage.change(
        stage.entry(domain, neighbours + 6 * _PAGE), set_=INTERRUPT_FIRST + 0x5000, clear=0xFF_FFFF_F000
    )
    assert shallow.domain is not None
    stage.map(shallow.domain, 0x1000, SPARE, 4)
    fresh = stage.entry(domain, neighbours + _PAGE)
    width = 12 + 9 * min(context.params.levels)

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        for iova, at in regions:
            yield from stage.access(device, iova + at)
            yield from stage.access(device, iova + 0x1_2344, write=True)
        yield from stage.access(device, neighbours)
        for page in range(24):
            yield from stage.accesses(device, [neighbours + page * _PAGE + 4 * page], write=bool(page & 4))
        yield from stage.access(device, neighbours)
        yield Store(fresh, SPARE + 0x70_0000 | 3)  # was not present: needs no invalidation
        yield Delay(2)
        yield from stage.access(device, neighbours + _PAGE)
        for iova in (0x1000, 1 << width | 0x1000, 1 << 63 | 0x1000, 0x1000):
            yield from stage.access(shallow, iova)
        yield from stage.access(device, 1 << 48 | 0x1000)
        yield from stage.access(lost, 0x1000)
        yield from stage.access(lost, 0x1000, write=True)
        for page in (0, 3):
            for write in (False, True):
                yield from stage.access(device, INTERRUPT_FIRST + page * _PAGE, write)
        yield from stage.access(Device(0x0808), 0x1000)

    stage.run("software", software())
    return stage.bench


def permissions(context: JobContext, scalable: bool = False) -> LockStep:
    """Rights differ between levels, neighbours and merged requests."""
    stage = Stage(context, latency=6, scalable=scalable)
    domain = stage.domain(0x41)
    device = stage.device(0x0300, domain)
    levels = domain.table.levels
    regions: list[int] = []
    for level in range(levels):
        for clear in (1, 2):
            iova = len(regions) + 1 << 39
            regions.append(iova)
            stage.map(domain, iova, FRAMES + (len(regions) << 20), 24)
            stage.change(stage.entry(domain, iova, level), clear=clear)
    mixed = len(regions) + 1 << 39
    stage.map(domain, mixed, SPARE, 8)
    for page in range(8):
        stage.change(stage.entry(domain, mixed + page * _PAGE), clear=(0, 2, 1, 2, 0, 1, 3, 2)[page])

    def pair(iova: int, order: tuple[bool, bool]) -> BenchAgent[None]:
        """A read and a write of one page that share a walk."""
        yield Translate(device.sid, iova, order[0])
        yield Translate(device.sid, iova + 4, order[1])
        yield Delay(60)

    def raised() -> BenchAgent[None]:
        """A cached page gets more rights, which needs no invalidation where the page is walked again (K6)."""
        yield from stage.access(device, mixed + _PAGE)
        yield Store(stage.entry(domain, mixed + _PAGE), SPARE + _PAGE | 3)
        yield Delay(2)
        yield from stage.access(device, mixed + _PAGE, write=True)

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        yield from stage.access(device, 0x1000)
        for number, iova in enumerate(regions):
            order = (False, True) if number & 1 else (True, False)
            yield from pair(iova, order)
            yield from stage.accesses(device, [iova + _PAGE, iova + 9 * _PAGE], write=bool(number & 1))
            yield from stage.accesses(device, [iova + 9 * _PAGE, iova + 17 * _PAGE], write=not number & 1)
        for first in range(0, 8, 2):
            yield from host.sync(host.global_descriptor())
            for page, write in ((first, False), (first + 1, True), (first, True), (first + 1, False)):
                yield Translate(device.sid, mixed + page * _PAGE + page, write)
            yield Delay(60)
        for page in range(8):
            yield from stage.access(device, mixed + page * _PAGE, write=False)
            yield from stage.access(device, mixed + page * _PAGE, write=True)
        yield from raised()

    stage.run("software", software())
    return stage.bench


def late(context: JobContext) -> LockStep:
    """A page is mapped while a walk that finds it not present is in flight; whoever comes after that is translated."""
    stage = Stage(context, latency=5, completions=ReadyPattern(70, 2), sample=Sample.AT_ACCEPT)
    domain = stage.domain(0x48)
    device = stage.device(0x0300, domain)
    base = 0x2_0000_0000
    stage.map(domain, base, FRAMES)
    leaves = [stage.entry(domain, base + page * _PAGE) for page in range(26)]

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        yield from stage.access(device, base)
        for offset, leaf in enumerate(leaves[1:]):
            page = base + (offset + 1) * _PAGE
            yield Translate(device.sid, page)
            yield Delay(offset)
            yield Store(leaf, SPARE + (offset << 12) | 3)  # was not present: needs no invalidation
            for write in (False, True, False):
                yield Translate(device.sid, page + 8, write)
            yield Delay(40)
            yield from stage.host.sync(stage.host.domain_descriptor(domain.did))

    stage.run("software", software())
    return stage.bench


def pressure(context: JobContext, stall: int = 0) -> LockStep:
    """More misses than slots, more lines than the caches hold, ports that stall, data out of order."""
    ready, jitter = (ReadyPattern(60, 3), 9) if stall else (ReadyPattern(), 0)
    stage = Stage(
        context, latency=3, jitter=jitter, reorder=bool(stall), stall=stall, hits=ready, completions=ready
    )
    domain = stage.domain(0x51)
    devices = [stage.device(0x0300 + number, domain) for number in range(3)]
    base = 0x9_0000_0000
    stage.map(domain, base, FRAMES, 80)
    far = [base + (number << 30) for number in range(1, 4)]
    for number, iova in enumerate(far):
        stage.map(domain, iova, SPARE + (number << 24), 8)

    def traffic(device: Device, seed: int) -> BenchAgent[None]:
        yield Delay(30)
        state = seed
        for number in range(60):
            state = state * 1103515245 + 12345 & 0x7FFF_FFFF
            page = (state >> 16) % 80 if number % 3 else number % 9
            iova = base + page * _PAGE if number % 7 else far[number // 7 % 3] + (page & 7) * _PAGE
            yield Translate(device.sid, iova + (state & 0xFFC), bool(state >> 20 & 1))

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        for number in range(6):
            yield Delay(70)
            yield from host.sync(host.domain_descriptor(domain.did) if number & 1 else host.global_descriptor())

    for number, device in enumerate(devices):
        stage.run(f"device{number}", traffic(device, 7 * number + 1))
    stage.run("software", software())
    return stage.bench


def pasids(context: JobContext) -> LockStep:
    """Scalable mode: one function with several PASIDs, requests without PASID, PASID-cache invalidations."""
    stage = Stage(context, latency=3, scalable=True, wide=True, rid_pasid=9)
    base = 0x3_0000_0000
    spaces = [stage.domain(0x60 + number) for number in range(4)]
    for number, domain in enumerate(spaces):
        stage.map(domain, base, FRAMES + (number << 24), 16)
    devices = [
        stage.device(0x0380, spaces[0]), stage.device(0x0380, spaces[1], pasid=5, fpd=1),
        stage.device(0x0380, spaces[2], pasid=0x45, pgsnp=1), stage.device(0x0305, spaces[3], pasid=5),
        stage.device(0x0305, None, pasid=7, did=0x70),
    ]  # fmt: skip
    absent = [Device(0x0380, 6), Device(0x0380, 0x85), Device(0x0380, 1 << 13), Device(0x0305, None), Device(0x0305, 9)]

    def forget(device: Device, did: int, g: int) -> int:
        pasid = 9 if device.pasid is None else device.pasid
        return d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=g, did=did, pasid=pasid if g == 1 else 0)

    def everybody(page: int) -> BenchAgent[None]:
        for device in devices + absent:
            yield from stage.access(device, base + page * _PAGE)

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        yield from everybody(0)
        yield from everybody(8)
        for round_, device in enumerate(devices[:4]):
            was = device.domain
            assert was is not None
            yield from stage.access(device, base)
            yield from host.detach(device)
            device.domain = spaces[(round_ + 1) % 4]
            yield from host.attach(device)
            yield from host.sync(forget(device, was.did, (1, 0, 1, 3)[round_]))
            yield from stage.access(device, base)
        for round_, domain in enumerate(spaces):
            device = next(device for device in devices if device.domain is domain)
            yield from stage.access(device, base)
            yield Store(stage.entry(domain, base), SPARE + (round_ << 20) | 3)
            page = d.PASID_IOTLB_INV.pack(
                type=d.DescriptorType.PASID_IOTLB, g=3 if round_ & 1 else 2, did=domain.did, pasid=1,
                address=base >> 12 if round_ & 1 else 0,
            )  # fmt: skip
            yield from host.sync(page)
            yield from stage.access(device, base)

    stage.run("software", software())
    return stage.bench
