"""The smallest complete job: one device reads its pages, software unmaps one of them and waits for the
invalidation."""

from cocotb_tests.harness.host import RAM, Device, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Drain, Translate
from pymodel.memory import PhysMem
from pymodel.paging.update import map_range, unmap_range

__all__ = ["job"]


def job(context: JobContext, pages: int = 16, latency: int = 20, scalable: bool = False) -> LockStep:
    """`pages` pages of one domain are read twice, one is unmapped, and read again."""
    memory = PhysMem([RAM])
    bench = context.lockstep(memory=memory, timing=MemoryTiming(latency=latency))
    host = Host(context.params, memory, scalable=scalable)
    domain = host.domain(did=7)
    host.build(map_range(domain.table, 0x40_0000, 0x1_2340_0000, pages << 12, max_level=0))
    device = Device(sid=0x0300, domain=domain)
    host.build(host.attach(device))

    def software() -> BenchAgent[None]:
        yield from host.start()
        for _ in range(2):
            for page in range(pages):
                yield Translate(device.sid, 0x40_0000 + (page << 12), write=bool(page & 1))
            yield Drain()
        update = yield from unmap_range(domain.table, 0x40_0000, 4096)
        ih = int(update.keep_pointers)
        yield from host.sync(*host.page_descriptors(domain.did, update.ranges[0], ih))
        translation = yield Translate(device.sid, 0x40_0010)
        yield Answer(translation)
        if not translation.reason:
            raise AssertionError(f"an unmapped page was translated: {translation!r}")

    bench.scheduler.add("software", software())
    return bench
