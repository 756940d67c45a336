"""The random workload: a plan drawn from a seed, and the job that carries it out.

Everything follows from the seed: parameter set (unless one is named), memory, tables, agents. A named
parameter set with a seed is what `twodim random --params NAME --seed N` repeats.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from cocotb_tests.harness.control_software import ControlSoftware
from cocotb_tests.harness.errors import HarnessError
from cocotb_tests.harness.host import RAM, Device, Domain, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming, Sample
from cocotb_tests.harness.patterns import ALWAYS, ReadyPattern
from cocotb_tests.harness.scheduler import Gap, fixed, uniform
from cocotb_tests.harness.table_software import Region, TableSoftware
from cocotb_tests.harness.traffic import Area, DeviceTraffic
from pymodel.effects import Agent
from pymodel.memory import PhysMem
from pymodel.paging.geometry import span
from pymodel.spec.params import PRESETS, Architecture, IommuParams

__all__ = ["PARAMETER_SETS", "RandomPlan", "random_job"]

PARAMETER_SETS: Mapping[str, IommuParams] = {
    "tiny": IommuParams(
        iotlb_entries=1,
        psc_entries=1,
        context_entries=1,
        walk_slots=1,
        pending_requests=1,
        tag_bits=3,
        haw=36,
        levels=(3,),
        large_pages=0,
        fault_records=1,
        scalable=False,
        max_address_mask=0,
    ),
    "small": PRESETS["small"],
    "default": PRESETS["default"],
    "legacy": IommuParams(
        iotlb_entries=8,
        psc_entries=4,
        context_entries=4,
        walk_slots=3,
        pending_requests=7,
        tag_bits=5,
        haw=40,
        levels=(3, 4),
        large_pages=1,
        fault_records=3,
        scalable=False,
        snoop_control=False,
        max_address_mask=9,
    ),
    "amd": IommuParams(
        iotlb_entries=16,
        psc_entries=8,
        context_entries=8,
        walk_slots=4,
        pending_requests=8,
        tag_bits=6,
        levels=(4,),
        fault_records=4,
        inval_scope=Architecture.AMD,
        psc_scope=Architecture.AMD,
    ),
    "rewalk": IommuParams(
        iotlb_entries=2,
        psc_entries=2,
        context_entries=4,
        walk_slots=5,
        pending_requests=6,
        tag_bits=4,
        haw=46,
        levels=(4, 5),
        leaf_snp_legal=False,
        pass_through=False,
        rewalk_on_perm=True,
        fault_records=5,
    ),
    "wide": IommuParams(
        iotlb_entries=64,
        psc_entries=16,
        context_entries=32,
        walk_slots=16,
        pending_requests=32,
        haw=52,
        max_address_mask=52,
        fault_records=16,
    ),
    "large": PRESETS["large"],
}
"""Parameter sets of the random runs; the last one takes minutes to build with Verilator, once for each RTL."""


@dataclass(frozen=True)
class RandomPlan:
    """What a seed stands for."""

    seed: int
    name: str
    """Name in `PARAMETER_SETS`."""
    timing: MemoryTiming
    hits: ReadyPattern
    completions: ReadyPattern
    responses: ReadyPattern
    scalable: bool
    wide: bool
    size_code: int
    rates: tuple[float, ...]
    """Request rate of each device source."""
    editors: int
    """Agents that edit tables."""
    slow_software: bool
    """Gaps between effects are random, up to 12 cycles, instead of short."""
    regions: int
    calm: int
    """Mean number of cycles between two resets; 0: none."""

    @classmethod
    def from_seed(cls, seed: int, name: str | None = None) -> "RandomPlan":
        """Draw a plan; raises `HarnessError` for a name that no parameter set has."""
        if name is not None and name not in PARAMETER_SETS:
            raise HarnessError(f"parameter set must be one of {', '.join(PARAMETER_SETS)}, not {name!r}")
        rng = random.Random(f"plan {seed}")
        drawn = rng.choice(list(PARAMETER_SETS))
        chosen = name or drawn
        params = PARAMETER_SETS[chosen]
        timing = MemoryTiming(
            latency=rng.choice((1, 1, 2, 3, 5, 10, 20, 50, 100)),
            jitter=rng.choice((0, 0, 1, 4, 30)),
            reorder=rng.random() < 0.5,
            stall_percent=rng.choice((0, 0, 10, 40, 80)),
            write_latency=rng.choice((1, 2, 5, 30)),
            sample=rng.choice(list(Sample)),
        )
        patterns = [
            rng.choice(
                (
                    ALWAYS,
                    ALWAYS,
                    ReadyPattern(80),
                    ReadyPattern(50, 4),
                    ReadyPattern(25),
                    ReadyPattern(60, 30),
                )
            )
            for _ in range(3)
        ]
        scalable = rng.random() < 0.5
        wide = rng.random() < 0.5
        return cls(
            seed=seed,
            name=chosen,
            timing=timing,
            hits=patterns[0],
            completions=patterns[1],
            responses=patterns[2],
            scalable=scalable and params.scalable,
            wide=wide and params.scalable,
            size_code=rng.choice((0, 0, 0, 1)),
            rates=tuple(rng.choice((0.05, 0.3, 0.9, 1.0)) for _ in range(rng.randint(1, 3))),
            editors=rng.randint(1, 4),
            slow_software=rng.random() < 0.5,
            regions=rng.randint(3, 9),
            calm=rng.choice((0, 600, 2500, 10_000)),
        )

    def describe(self) -> str:
        """One line for people."""
        timing = self.timing
        return (
            f"seed {self.seed}, params {self.name}, {'scalable' if self.scalable else 'legacy'}, "
            f"{256 if self.wide else 128}-bit descriptors, L={timing.latency}+{timing.jitter}"
            f"{' reordered' if timing.reorder else ''}, stalls {timing.stall_percent} %, "
            f"{self.editors} editors, rates {self.rates}, "
            f"{f'a reset in {self.calm} cycles' if self.calm else 'no reset'}"
        )


class _World:
    """Domains, regions and devices of a plan, built before the first cycle."""

    def __init__(self, plan: RandomPlan, bench: LockStep, host: Host, rng: random.Random) -> None:
        params = bench.params
        self.domains = [
            host.domain(did, rng.choice(params.levels)) for did in rng.sample(range(1, 1 << 16), 3)
        ]
        self.regions: list[Region] = []
        for number in range(max(3, plan.regions)):
            self._add_region(self.domains[number % 3], rng)
        self.absent = [0x0AFF, 0x0303]
        entries: list[Device] = []
        for sid in (0x0300, 0x0301, 0x0302, 0x04F8, 0x0BFF):
            pasids = (None, 5, 0x41, 0x1FFF) if plan.scalable else (None,)
            entries += [Device(sid, pasid) for pasid in pasids if pasid is None or rng.random() < 0.5]
        for device in entries:
            through = params.pass_through and rng.random() < 0.1
            device.domain = None if through else rng.choice(self.domains)
            device.did = 0xFFFF
            device.fpd = int(rng.random() < 0.1)
            device.pgsnp = int(params.snoop_control and rng.random() < 0.2)
            host.build(host.attach(device))
        self.devices = entries

    def _add_region(self, domain: Domain, rng: random.Random) -> None:
        """A region that overlaps no other of its domain; neighbours share upper tables half of the time."""
        level = rng.choice((1, 1, 1, 2))
        width = 12 + 9 * domain.table.levels
        for _ in range(20):
            if self.regions and rng.random() < 0.6:
                base = rng.choice(self.regions).start & -span(3)
                start = base + (rng.randrange(span(3)) & -span(level))
            elif rng.random() < 0.15:
                start = 0xFEE0_0000 & -span(level)
            else:
                start = rng.randrange(1 << width) & -span(level)
            size = span(level)
            inside = start + size <= 1 << width
            if inside and not any(
                region.domain is domain and start < region.start + region.size and region.start < start + size
                for region in self.regions
            ):
                self.regions.append(Region(domain, start, level))
                return


def random_job(
    context: JobContext, params: str | None = None, cycles: int = 20_000, quiet: bool = False
) -> LockStep:
    """The job of the plan of `context.seed`; `params` is the name of the parameter set that the context
    carries."""
    plan = RandomPlan.from_seed(context.seed, params)
    memory = PhysMem([RAM])
    bench = context.lockstep(
        memory=memory,
        timing=plan.timing,
        hits=plan.hits,
        completions=plan.completions,
        responses=plan.responses,
        limit=cycles,
        answers_expected=not quiet,
    )
    resets = _reset_cycles(plan, cycles)
    for number, (at, length) in enumerate(resets, 1):
        bench.reset_at(at, partial(_boot, plan, bench, number, at + length), length)
    _boot(plan, bench, 0, 0)
    return bench


def _reset_cycles(plan: RandomPlan, cycles: int) -> list[tuple[int, int]]:
    """(cycle, length in cycles) of the resets: at any moment, now and then one soon after the other."""
    rng = random.Random(f"resets {plan.seed}")
    found: list[tuple[int, int]] = []
    at = 0
    while plan.calm:
        at += rng.randrange(2, 40) if rng.random() < 0.15 else rng.randrange(2, 2 * plan.calm)
        if at >= cycles:
            break
        found.append((at, rng.choice((1, 1, 2, 5))))
        at += found[-1][1]
    return found


def _boot(plan: RandomPlan, bench: LockStep, number: int, now: int) -> None:
    """Start software in cycle `now`, for the time after reset `number`: with empty memory, as after a crash."""
    memory = bench.memory
    for page in list(memory.pages()):
        memory.clear_page(page)
    name = f"{plan.seed}" if not number else f"{plan.seed} reset {number}"
    rng = random.Random(f"world {name}")
    host = Host(
        bench.params, memory, scalable=plan.scalable, wide=plan.wide, size_code=plan.size_code,
        rid_pasid=rng.choice((0, 0, 9)),
    )  # fmt: skip
    world = _World(plan, bench, host, rng)

    def gap(agent: str) -> Gap:
        if plan.slow_software:
            return uniform(0, 12, random.Random(f"gap {agent} {name}"))
        return fixed(1) if rng.random() < 0.5 else uniform(0, 2, random.Random(f"gap {agent} {name}"))

    def add(agent: str, program: Agent[None], start: int = 0) -> None:
        bench.scheduler.add(agent, program, start=now + start, gap=gap(agent))

    editors = []
    for index in range(plan.editors):
        mine = world.regions[index :: plan.editors] or world.regions[:0]
        if mine:
            editors.append(TableSoftware(bench, host, random.Random(f"editor {index} {name}"), mine))
    areas = []
    for editor in editors:
        for region in editor.regions:
            host.build(editor.populate(region))
            areas.append(Area(region.domain.did, region.start, region.size, region.popular))
    add("start", host.start())
    begin = 100 if rng.random() < 0.8 else 0  # requests before translation is on
    for index, editor in enumerate(editors):
        add(f"editor{index}", editor.run(), 120)
    control = ControlSoftware(bench, host, random.Random(f"control {name}"))
    add("devices", control.devices(world.devices, world.domains), 150)
    add("waits", control.waits(), 130)
    add("faults", control.faults(), 200)
    add("events", control.events(), 100)
    add("reader", control.reader(), 0)
    add("mistakes", control.mistakes(), 500)
    add("switches", control.switches(), 800)
    for index, rate in enumerate(plan.rates):
        source = DeviceTraffic(
            bench.params,
            random.Random(f"device {index} {name}"),
            world.devices,
            areas,
            rate,
            world.absent,
            silent_until=now + begin,
        )
        bench.add_source(source)
