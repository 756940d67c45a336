"""Two architectural models, written apart, agree: what the explorer reaches, `pymodel.iommu` calls legal.

Each schedule that the explorer shows for a random machine is told to the judge step by step, one cycle each.
"""

import re
from typing import Any

from cocotb_tests.unit.pymodel.explore.programs import DID, QUEUE, ROOT, SID, random_machine
from pymodel.explore import Dma, Prefetch, ScheduleStep, explore
from pymodel.iommu.legal import Judge
from pymodel.iommu.queue import IotlbInvalidation, decode
from pymodel.iommu.types import Request
from pymodel.memory import PhysMem, SparseMem
from pymodel.spec.context import LEGACY_CONTEXT, LEGACY_ROOT, RTADDR
from pymodel.spec.params import IommuParams

ROOT_TABLE, CONTEXT_TABLE = 0x20_0000, 0x20_1000
MACHINES = 360
HEX = r"(0x[0-9a-f]+)"


def judged_memory(memory: SparseMem) -> PhysMem:
    """The tables, with a context entry for the device."""
    judged = PhysMem()
    entry = LEGACY_CONTEXT.pack(p=1, table=ROOT >> 12, aw=1, did=DID)
    for address, value in ((ROOT_TABLE, LEGACY_ROOT.pack(p=1, context_table=CONTEXT_TABLE >> 12)),
                           (CONTEXT_TABLE + 16 * SID, entry)):  # fmt: skip
        judged.store(address, value & (1 << 64) - 1)
        judged.store(address + 8, value >> 64)
    for address, value in memory.items():
        judged.store(address, value)
    return judged


class Replay:
    """A schedule, told to the judge."""

    def __init__(self, params: IommuParams, memory: SparseMem) -> None:
        self.params = params
        self.memory = judged_memory(memory)
        self.judge = Judge(params, self.memory)
        self.memory.observers.append(self.judge.stored)
        self.judge.set_root(0, RTADDR.pack(address=ROOT_TABLE >> 12))
        self.judge.enable(0, True)
        self.accepted: dict[str, int] = {}
        self.tail = 0
        self.checked = 0

    def step(self, time: int, step: ScheduleStep, wanted: dict[str, list[tuple[int, bool]]]) -> str:
        """Apply one step; says what the judge objects to."""
        self.judge.advance(time)
        label = step.label
        if found := re.match(rf"(?:store|DMA write) {HEX} = {HEX}", label):
            self.memory.store(int(found[1], 16), int(found[2], 16))
        elif found := re.match(rf"doorbell IQT = {HEX}", label):
            for offset in range(self.tail, int(found[1], 16), 16):
                self._submit(time, QUEUE + offset)
            self.tail = int(found[1], 16)
        elif label.startswith("sees"):
            self.judge.completed(time)
        return self._answer(time, step, wanted)

    def _submit(self, time: int, address: int) -> None:
        kind = decode(self.memory.load(address) | self.memory.load(address + 8) << 64, self.params)
        if isinstance(kind, IotlbInvalidation):
            self.judge.submitted(time, kind)

    def _answer(self, time: int, step: ScheduleStep, wanted: dict[str, list[tuple[int, bool]]]) -> str:
        if not step.who.startswith("device") or not wanted[step.who]:
            return ""
        iova, write = wanted[step.who][0]
        accepted = self.accepted.get(step.who, 1)
        hit = re.match(rf"(?:fills|hits) {HEX} -> {HEX}", step.label)
        if hit or step.label.startswith("refused"):
            legal = self.judge.legal(Request(SID, None, iova, write), accepted, time)
            address = int(hit[2], 16) if hit else None
            self.checked += 1
            wanted[step.who].pop(0)
            self.accepted[step.who] = time
            if not any((one.address if not one.reason else None) == address for one in legal):
                return f"{step.label}: legal are {', '.join(map(str, legal))}"
        return ""


def effects(make: Any) -> list[Any]:
    """What an agent yields when everything is answered with 0."""
    generator, found = make(), []
    try:
        found.append(generator.send(None))
        while True:
            found.append(generator.send(0))
    except StopIteration:
        return found


def objections(seed: int, broken: bool = False) -> tuple[int, list[str]]:
    """Number of judged answers and what was objected to, over all outcomes of a machine.

    Left out: machines with K3 and K11, which the judge does not know, and devices that prefetch, whose
    refused prefetches look like refused accesses. Wanted or not: K9=0, which is broken.
    """
    agents, memory, iommu = random_machine(seed)
    params = iommu.params
    devices = {name: effects(make) for name, make in agents.items() if name.startswith("device")}
    if params.np_cache or params.inv_reorder or params.walk_drain == broken:
        return 0, []
    if any(isinstance(effect, Prefetch) for asked in devices.values() for effect in asked):
        return 0, []
    checked, texts = 0, []
    for schedule in explore(agents, memory, (iommu,)).outcomes.values():
        replay = Replay(params, memory)
        wanted = {
            name: [(effect.iova, effect.write) for effect in asked if isinstance(effect, Dma)]
            for name, asked in devices.items()
        }
        for number, step in enumerate(schedule):
            text = replay.step(2 + 2 * number, step, wanted)
            if text:
                texts.append(f"seed {seed}, step {number}: {text}")
        checked += replay.checked
    return checked, texts


def test_what_is_reached_is_legal() -> None:
    """Every answer in every shown schedule of the machines is legal to the judge."""
    total = 0
    for seed in range(MACHINES):
        checked, texts = objections(seed)
        assert texts == []
        total += checked
    assert total > 300


def test_an_iommu_without_k9_is_objected_to() -> None:
    """The comparison has teeth: walks that survive an invalidation give answers that the judge refuses."""
    assert any(objections(seed, broken=True)[1] for seed in range(MACHINES))
