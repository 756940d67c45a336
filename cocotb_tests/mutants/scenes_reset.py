"""Scenarios about reset in the middle of a run."""

from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.patterns import ReadyPattern
from cocotb_tests.harness.scheduler import BenchAgent, Drain, Translate
from cocotb_tests.mutants.stage import FRAMES, OFFSET, SPARE, Stage, page_inv
from pymodel.effects import ReadRegister, Store, WaitFor, WriteRegister
from pymodel.spec.registers import EVENT_CONTROL, GCMD

__all__ = ["resets"]

_PAGE = 4096
_ROUNDS = 36


def resets(context: JobContext) -> LockStep:
    """The unit is reset at every offset of a busy stretch; software starts again, and all is as after the first one."""
    stage = Stage(
        context, latency=6, jitter=3, reorder=True, write_latency=4, hits=ReadyPattern(60, 2),
        completions=ReadyPattern(60, 2),
    )  # fmt: skip
    host = stage.host
    domain = stage.domain(0x81)
    device = stage.device(0x0300, domain)
    base = 0x1_0000_0000
    stage.map(domain, base, FRAMES, 16)
    leaves = [stage.entry(domain, base + page * _PAGE) for page in range(16)]

    def software(frame: int) -> BenchAgent[None]:
        enabled: int = yield ReadRegister(OFFSET["GSTS"])
        stage.expect(not enabled & GCMD.mask("te", "qie"), f"GSTS must be 0 after reset, not {enabled:#x}")
        yield from host.start()
        yield WriteRegister(OFFSET["FECTL"], EVENT_CONTROL.pack(im=0))
        for page in (0, 8, 1, 2, 40, 9):  # two walks, hits, a fault
            yield Translate(device.sid, base + page * _PAGE, bool(page & 1))
        yield Store(leaves[0], frame | 3)
        wait, address, data = host.wait_descriptor(interrupt=1, fence=1)
        yield from host.put(page_inv(domain.did, base), wait)
        for page in (0, 8, 41, 0):
            yield Translate(device.sid, base + page * _PAGE)
        yield Drain()
        yield WaitFor(address, 0xFFFF_FFFF, data)
        found = yield from stage.access(device, base + 8)
        stage.expect(found.address == frame + 8, f"the page must be at {frame + 8:#x}, not {found.address:#x}")

    def boot(number: int) -> None:
        host.restart()
        stage.run("software", software(SPARE + (number << 20)), start=stage.bench.now + 2)

    boot(0)
    at = 0
    for number in range(1, _ROUNDS):
        at += 8 + 4 * number  # from the first register accesses to the end of the stretch
        stage.bench.reset_at(at, lambda number=number: boot(number), 1 + number % 2)  # type: ignore[misc]
    return stage.bench
