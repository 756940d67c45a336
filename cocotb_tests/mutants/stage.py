"""What the scenarios of the seeded defects share: one bench, its host software, and small agents."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cocotb_tests.harness.errors import BenchError
from cocotb_tests.harness.host import RAM, Device, Domain, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming, Sample
from cocotb_tests.harness.patterns import ALWAYS, ReadyPattern
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Drain, Translate, Translation
from pymodel.effects import Delay, ReadRegister, Store, WriteRegister
from pymodel.memory import PhysMem
from pymodel.paging.table import lookup
from pymodel.paging.update import map_range
from pymodel.spec import descriptors as d
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, FSTS, REGISTERS

__all__ = ["BASE", "FRAMES", "PARAMETERS", "SPARE", "ScenarioFailed", "Stage", "page_inv"]

BASE = IommuParams(
    iotlb_entries=4, psc_entries=2, context_entries=2, walk_slots=2, pending_requests=4, tag_bits=6, haw=40,
    levels=(3, 4), fault_records=2,
)  # fmt: skip
"""Small: Icarus and the Verilog back end are fast with it, and every structure overflows soon."""

PARAMETERS = {
    "base": BASE,
    "amd": replace(BASE, inval_scope=Architecture.AMD, psc_scope=Architecture.AMD),
    "rewalk": replace(BASE, rewalk_on_perm=True, leaf_snp_legal=False, large_pages=1),
}
"""Parameter sets of the scenarios by name."""

FRAMES = 0x12_0000_0000
"""Where pages are mapped to; a multiple of 1 GiB below 2**haw."""
SPARE = 0x34_0000_0000
"""Other frames, for what comes after an update."""

_LIMIT = 6000  # cycles; every scenario ends before
_STUCK = 800  # cycles without an end of the drain

OFFSET = {name: register.offset for name, register in REGISTERS.items()}
"""Register offsets by name."""


class ScenarioFailed(BenchError):
    """What software sees is wrong: found by the scenario itself, which no judge looks at."""


def page_inv(did: int, iova: int, am: int = 0, ih: int = 0) -> int:
    """Page-selective IOTLB invalidation."""
    return d.IOTLB_INV.pack(
        type=d.DescriptorType.IOTLB, g=d.Granularity.SELECTIVE, did=did, am=am, ih=ih, address=iova >> 12
    )


class Stage:
    """One bench with its host. Build domains and devices, `run` agents, return `bench`."""

    def __init__(
        self, context: JobContext, *, latency: int = 4, jitter: int = 0, reorder: bool = False, stall: int = 0,
        write_latency: int = 2, scalable: bool = False, wide: bool = False, hits: ReadyPattern = ALWAYS,
        completions: ReadyPattern = ALWAYS, responses: ReadyPattern = ALWAYS, rid_pasid: int = 0,
        sample: Sample = Sample.AT_RETURN,
    ) -> None:  # fmt: skip
        self.params = context.params
        self.memory = PhysMem([RAM])
        self._context = context
        self._options: dict[str, Any] = {
            "timing": MemoryTiming(
                latency=latency, jitter=jitter, reorder=reorder, stall_percent=stall, write_latency=write_latency,
                sample=sample,
            ),
            "hits": hits, "completions": completions, "responses": responses,
        }  # fmt: skip
        self._bench: LockStep | None = None
        self.host = Host(context.params, self.memory, scalable=scalable, wide=wide, rid_pasid=rid_pasid)

    @property
    def bench(self) -> LockStep:
        """The bench. It is made when it is first asked for: what was built before is no history to judge 1."""
        if self._bench is None:
            self._bench = self._context.lockstep(
                memory=self.memory, limit=_LIMIT, hang_limit=_STUCK, **self._options
            )
        return self._bench

    # --- before the first cycle ------------------------------------------------------------------------------

    def domain(self, did: int, levels: int | None = None) -> Domain:
        """A domain with an empty table."""
        return self.host.domain(did, levels)

    def device(self, sid: int, domain: Domain | None, pasid: int | None = None, **entry: int) -> Device:
        """A device that is attached; `entry` are further members of `Device`."""
        device = Device(sid=sid, pasid=pasid, domain=domain, **entry)
        self.host.build(self.host.attach(device))
        return device

    def map(self, domain: Domain, iova: int, address: int, pages: int = 1, top: int = 0, **rights: Any) -> None:
        """Map `pages` small pages with leaves up to level `top`."""
        self.host.build(map_range(domain.table, iova, address, pages << 12, max_level=top, **rights))

    def entry(self, domain: Domain, iova: int, level: int = 0) -> int:
        """Address of the table entry that decides about `iova` at `level`."""
        return self.host.build(lookup(domain.table, iova, level)).address

    def word(self, address: int) -> int:
        """What memory holds."""
        return self.memory.load(address)

    def change(self, address: int, *, set_: int = 0, clear: int = 0) -> None:
        """Change bits of a word before the first cycle."""
        self.memory.store(address, self.memory.load(address) & ~clear | set_)

    def run(self, name: str, agent: BenchAgent[None], *, start: int = 0, gap: int = 0) -> None:
        """Add an agent; with `gap` 0 its stores and doorbells fall into one cycle."""
        self.bench.scheduler.add(name, agent, start=start, gap=gap)

    # --- agents ----------------------------------------------------------------------------------------------

    def access(self, device: Device, iova: int, write: bool = False) -> BenchAgent[Translation]:
        """One translation; ends with its answer."""
        translation: Translation = yield Translate(device.sid, iova, write, device.pasid)
        yield Answer(translation)
        return translation

    def accesses(self, device: Device, iovas: Iterable[int], write: bool = False) -> BenchAgent[list[Translation]]:
        """Translations back to back; ends when all are answered."""
        asked = []
        for iova in iovas:
            translation = yield Translate(device.sid, iova, write, device.pasid)
            asked.append(translation)
        yield Drain()
        return asked

    def store_all(self, words: Sequence[tuple[int, int]]) -> BenchAgent[None]:
        """Stores, one after the other."""
        for address, word in words:
            yield Store(address, word)

    def expect(self, condition: bool, what: str) -> None:
        """Software's own check; it leaves the word to judge 1 where that is on."""
        if not condition and self.bench.judge is None:
            raise ScenarioFailed(self.bench.now, f"cycle {self.bench.now}: {what}")

    def poll(self, register: str, mask: int, value: int) -> BenchAgent[int]:
        """Read a register until the masked value is there."""
        for _ in range(60):
            word: int = yield ReadRegister(OFFSET[register])
            if word & mask == value:
                return word
            yield Delay(4)
        raise ScenarioFailed(
            self.bench.now, f"cycle {self.bench.now}: {register} never had {value:#x} under {mask:#x}"
        )

    # --- the fault log ---------------------------------------------------------------------------------------

    def read_log(self) -> BenchAgent[tuple[list[int], int]]:
        """Take all records, the oldest first, clear them and PFO; gives (records, FSTS)."""
        count = self.params.fault_records
        status: int = yield ReadRegister(OFFSET["FSTS"])
        found: list[int] = []
        first = FSTS.get(status, "fri")
        for step in range(count if FSTS.get(status, "ppf") else 0):
            offset = FAULT_RECORD_OFFSET + 16 * ((first + step) % count)
            high: int = yield ReadRegister(offset + 8, 8)
            if not high >> 63:
                break
            low: int = yield ReadRegister(offset, 8)
            found.append(high << 64 | low)
        for step in range(len(found)):
            yield WriteRegister(FAULT_RECORD_OFFSET + 16 * ((first + step) % count) + 12, 1 << 31)
        if FSTS.get(status, "pfo"):
            yield WriteRegister(OFFSET["FSTS"], FSTS.pack(pfo=1))
        return found, status
