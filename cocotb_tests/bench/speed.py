"""`twodim bench --sim-speed`: how fast the checked lock-step and the golden walkers are on this machine."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cocotb_tests.bench.run import bench_params
from cocotb_tests.bench.workloads import BASE, DELTA, SIZES, WORKLOADS
from cocotb_tests.harness.cosim import CosimFailed, cosimulate, sim_speed
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

__all__ = ["golden_walks", "speeds"]

_JOBS = "cocotb_tests.bench.jobs"
_RANDOM_SEED = 12
_RECORDING = Path(__file__).parents[1] / "data" / "nvme_huge.jsonl.gz"


def speeds(console: Console, simulator: str, quick: bool = False) -> dict[str, Any]:
    """Measure and print; the bare loop runs on the same RTL in the same lane, right before each job.

    Each job runs in two lanes: cocotb (on Verilator where `simulator` is "lean"), and lean. The yardstick of both is
    the loop of cocotb that awaits the clock and does nothing else.
    """
    if simulator == "lean":
        simulator = "verilator"
    params, repeat = bench_params(8), 1 if quick else 3
    random_cycles = 20_000 if quick else 60_000
    plan = RandomPlan.from_seed(_RANDOM_SEED, "default")
    runs: list[tuple[str, IommuParams, str, int, dict[str, Any]]] = [
        ("hits: a page over and over", params, f"{_JOBS}:hits_under_misses", 1,
         {"latency": 20, "distance": 10_000_000, "count": 20_000 * repeat}),
        ("misses: rand2000_sparse, L=20", params, f"{_JOBS}:throughput", 1,
         {"workload": "rand2000_sparse", "latency": 20}),
        (f"random job, parameters {plan.name}", PARAMETER_SETS[plan.name], JOB, _RANDOM_SEED,
         {"params": plan.name, "cycles": random_cycles}),
        (f"replay: {_RECORDING.name}", IommuParams(), REPLAY, 0,
         {"path": str(_RECORDING), "limit": 150 if quick else None}),
    ]  # fmt: skip
    table = Table(title=f"Simulated cycles per second on {simulator}", title_justify="left")
    columns = ("job", "cycles", "bare loop", "+ read", "no judges", "checked", "ratio", "lean", "ratio")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    rows = []
    for name, design, job, seed, parameters in runs:
        bare = sim_speed(simulator, design, 50_000 * repeat, "edge")
        read = sim_speed(simulator, design, 50_000 * repeat, "read")
        checked, free, lean = (
            cosimulate(lane, design, job, seed=seed, job_parameters=parameters, judges=judges).summary
            for lane, judges in ((simulator, JUDGES), (simulator, ()), ("lean", JUDGES))
        )
        if lean["statistics"] != checked["statistics"]:
            raise CosimFailed(f"{name}: lane lean counts {lean['statistics']}, not {checked['statistics']}", lean, None)
        row = {
            "job": name, "cycles": checked["cycles"], "bare": bare, "bare_read": read,
            "without_judges": free["cycles_per_second"],
            "checked": checked["cycles_per_second"], "checked_to_bare": checked["cycles_per_second"] / bare,
            "lean": lean["cycles_per_second"], "lean_to_bare": lean["cycles_per_second"] / bare,
        }  # fmt: skip
        rows.append(row)
        table.add_row(
            name, f"{row['cycles']:,}", f"{bare:,.0f}", f"{read:,.0f}", f"{row['without_judges']:,}",
            f"{row['checked']:,}", f"{row['checked_to_bare']:.3f}", f"{row['lean']:,}", f"{row['lean_to_bare']:.3f}",
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
    started = time.perf_counter()
    walker = BulkWalker(memory, format_, table.root, 4)
    compiled = time.perf_counter()
    found = walker.walk(iovas)
    ended = time.perf_counter()
    alone = [int(iova) for iova in iovas[:20_000]]
    before = time.perf_counter()
    singly = [walk(memory, format_, table.root, 4, iova, False) for iova in alone]
    after = time.perf_counter()
    for iova, one, address in zip(alone, singly, found.address.tolist()):
        if one.translation is None or one.translation.address != address or address != iova + DELTA:
            raise AssertionError(f"walk and bulk disagree at {iova:#x}: {one} and {address:#x}")
    return {
        "pages": len(pages), "walk": len(alone) / (after - before), "bulk": count / (ended - compiled),
        "compile_seconds": compiled - started,
    }  # fmt: skip
