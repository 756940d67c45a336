"""`twodim bench --sim-speed`: how fast the checked lock-step and the golden walkers are on this machine.

Cycles per second of processor time of the process that simulates: what else runs on the machine matters little.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cocotb_tests.bench.task import bench_params
from cocotb_tests.bench.workloads import BASE, DELTA, SIZES, WORKLOADS
from cocotb_tests.harness.cosim import CosimFailed, cosimulate, sim_speed
from cocotb_tests.harness.installation import require
from cocotb_tests.harness.lockstep import JUDGES
from cocotb_tests.harness.stimulus import PARAMETER_SETS, RandomPlan
from cocotb_tests.random_run import JOB
from cocotb_tests.replay.run import JOB as REPLAY
from pymodel.effects import run_untimed
from pymodel.memory import PhysMem
from pymodel.paging.bulk import BulkWalker
from pymodel.paging.formats import SecondStage
from pymodel.paging.table import PagePool, PageTable
from pymodel.paging.update import map_range
from pymodel.paging.walk import walk
from pymodel.spec.params import IommuParams

__all__ = ["SpeedJob", "golden_walks", "lane_speeds", "speeds"]

_JOBS = "cocotb_tests.bench.jobs"
_RANDOM_SEED = 12
_RECORDING = Path(__file__).parents[1] / "data" / "nvme_huge.jsonl.gz"
_COLUMNS = ("job", "cycles", "bare loop", "+ read", "no judges", "checked", "ratio", "lean", "ratio")


@dataclass(frozen=True)
class SpeedJob:
    """A job whose checked cycles are timed."""

    name: str
    params: IommuParams
    job: str
    seed: int
    parameters: dict[str, Any]


def _jobs(quick: bool) -> list[SpeedJob]:
    params, plan = bench_params(8), RandomPlan.from_seed(_RANDOM_SEED, "default")
    return [
        SpeedJob("hits: a page over and over", params, f"{_JOBS}:hits_under_misses", 1,
                 {"latency": 20, "distance": 10_000_000, "count": 20_000}),
        SpeedJob("misses: rand2000_sparse, L=20", params, f"{_JOBS}:throughput", 1,
                 {"workload": "rand2000_sparse", "latency": 20}),
        SpeedJob("walks one by one: walk_cold, L=100", params, f"{_JOBS}:isolated", 1,
                 {"workload": "walk_cold", "latency": 100}),
        SpeedJob(f"random job, parameters {plan.name}", PARAMETER_SETS[plan.name], JOB, _RANDOM_SEED,
                 {"params": plan.name, "cycles": 20_000}),
        SpeedJob(f"replay: {_RECORDING.name}", IommuParams(), REPLAY, 0,
                 {"path": str(_RECORDING), "limit": 150 if quick else None}),
    ]  # fmt: skip


def lane_speeds(job: SpeedJob, simulator: str, repeat: int = 1, bare_cycles: int = 50_000) -> dict[str, Any]:
    """Cycles per second of one job in two lanes, cocotb on `simulator` and lean; the best of `repeat` runs.

    The yardstick of both is the loop of cocotb that awaits the clock and does nothing else, on the same RTL right
    before the job. Raises `CosimFailed` if a run does not pass, or the lanes do not do the same.
    """
    bare, read = (
        max(sim_speed(simulator, job.params, bare_cycles, kind) for _ in range(repeat)) for kind in ("edge", "read")
    )
    best: list[dict[str, Any]] = []
    for lane, judges in ((simulator, JUDGES), (simulator, ()), ("lean", JUDGES)):
        runs = [
            cosimulate(lane, job.params, job.job, seed=job.seed, job_parameters=job.parameters, judges=judges).summary
            for _ in range(repeat)
        ]
        best.append(max(runs, key=lambda summary: float(summary["cycles_per_second"])))
    checked, free, lean = best
    if lean["statistics"] != checked["statistics"]:
        raise CosimFailed(f"{job.name}: lane lean counts {lean['statistics']}, not {checked['statistics']}", lean, None)
    return {
        "job": job.name, "cycles": checked["cycles"], "bare": bare, "bare_read": read,
        "without_judges": free["cycles_per_second"],
        "checked": checked["cycles_per_second"], "checked_to_bare": checked["cycles_per_second"] / bare,
        "lean": lean["cycles_per_second"], "lean_to_bare": lean["cycles_per_second"] / bare,
    }  # fmt: skip


def speeds(console: Console, simulator: str, quick: bool = False) -> dict[str, Any]:
    """Measure and print; the lane of cocotb runs on Verilator where `simulator` is "lean"."""
    if simulator == "lean":
        simulator = "verilator"
    require("lean")  # before minutes of work
    table = Table(title=f"Simulated cycles per second of processor time on {simulator}", title_justify="left")
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    rows = []
    for job in _jobs(quick):
        row = lane_speeds(job, simulator, repeat=1 if quick else 3)
        rows.append(row)
        table.add_row(
            row["job"], f"{row['cycles']:,}", f"{row['bare']:,.0f}", f"{row['bare_read']:,.0f}",
            f"{row['without_judges']:,}", f"{row['checked']:,}", f"{row['checked_to_bare']:.3f}",
            f"{row['lean']:,}", f"{row['lean_to_bare']:.3f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"checked, lean: all three judges, in cocotb on {simulator} and in lane lean\n"
        "ratio: to the bare loop, which only awaits cocotb's clock on the same RTL\n"
    )
    walks = golden_walks(200_000 if quick else 1_000_000)
    console.print(
        f"golden walks per second, {walks['pages']} pages of 4 levels: one by one {walks['walk']:,.0f}, "
        f"in bulk {walks['bulk']:,.0f} ({walks['bulk'] / walks['walk']:.0f}x; table compiled in "
        f"{1000 * walks['compile_seconds']:.1f} ms)"
    )
    return {"simulator": simulator, "speeds": rows, "golden_walks": walks}


def golden_walks(count: int) -> dict[str, float]:
    """Walks per second of `pymodel.paging.walk` and `pymodel.paging.bulk` on one table; they must agree."""
    memory, format_, size = PhysMem(), SecondStage(), SIZES["4k"]
    pool = PagePool(0x10_0000, 0x1000_0000)
    table = PageTable(format_, pool.allocate(), 4, pool)
    pages = sorted({item.page for item in WORKLOADS["rand2000_sparse"].make()})
    for page in pages:
        iova = BASE + page * size
        run_untimed(map_range(table, iova, iova + DELTA, size), memory)
    rng = np.random.default_rng(1)
    mapped = np.array([BASE + page * size for page in pages], dtype=np.uint64)
    iovas = rng.choice(mapped, count) + rng.integers(0, size, count, dtype=np.uint64)
    started = time.process_time()
    walker = BulkWalker(memory, format_, table.root, 4)
    compiled = time.process_time()
    found = walker.walk(iovas)
    ended = time.process_time()
    alone = [int(iova) for iova in iovas[:20_000]]
    before = time.process_time()
    singly = [walk(memory, format_, table.root, 4, iova, False) for iova in alone]
    after = time.process_time()
    for iova, one, address in zip(alone, singly, found.address.tolist()):
        if one.translation is None or one.translation.address != address or address != iova + DELTA:
            raise AssertionError(f"walk and bulk disagree at {iova:#x}: {one} and {address:#x}")
    return {
        "pages": len(pages), "walk": len(alone) / (after - before), "bulk": count / (ended - compiled),
        "compile_seconds": compiled - started,
    }  # fmt: skip
