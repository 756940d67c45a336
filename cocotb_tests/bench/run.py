"""`twodim bench`: the RTL against its bounds and against another implementation, in exact cycles."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from cocotb_tests.bench import tables
from cocotb_tests.bench.figures import LATENCIES, OURS, PEER, PEER_SOURCE
from cocotb_tests.bench.speed import speeds
from cocotb_tests.bench.task import Task, bench_params
from cocotb_tests.bench.workloads import WORKLOADS, digest
from cocotb_tests.command import write_whole
from cocotb_tests.harness.cosim import CosimFailed, build_bench, cosimulate
from cocotb_tests.harness.lockstep import JUDGES

__all__ = ["measure", "run", "tasks"]

_JOBS = "cocotb_tests.bench.jobs"
_SEED = 1
_WIDTH = 120  # columns of the tables where the terminal is narrower
_EQUAL_PAGES = ("ws64", "hot8", "seq", "multidev")  # workloads in which the size of the IOTLB matters


def tasks(quick: bool = False) -> list[Task]:
    """Everything to measure, the longest first; `quick` leaves out W = 32, L = 20 and some page sizes."""
    found = []
    for slots in (8,) if quick else (8, 32):
        params = bench_params(slots)
        for latency in (1, 100) if quick else LATENCIES:
            at = {"latency": latency}
            for workload, sizes in PEER.items():
                for pages in list(sizes)[: 1 if quick else 2]:
                    found.append(Task(params, "throughput", {"workload": workload, "pages": pages, **at}))
            if slots == 8:
                for workload in _EQUAL_PAGES:
                    few = {"workload": workload, "pages": "4k", **at}
                    found.append(Task(bench_params(8, lines=2), "throughput", few))
                for workload in ("walk_warm", "walk_cold"):
                    for pages in ("4k", "2m"):
                        found.append(Task(params, "isolated", {"workload": workload, "pages": pages, **at}))
                found.append(Task(params, "depths", at))
            found += [Task(params, "invalidations", {"walks": walks, **at}) for walks in (False, True)]
    return sorted(found, key=lambda task: -task.latency)


def measure(
    wanted: Iterable[Task], simulator: str, check: bool = True, done: Callable[[int], None] | None = None
) -> None:
    """Run the tasks, several simulations at a time; raises `CosimFailed` if one does not pass."""
    wanted = list(wanted)
    for params in {task.params: None for task in wanted}:
        build_bench(simulator, params)

    def one(task: Task) -> None:
        result = cosimulate(
            simulator, task.params, f"{_JOBS}:{task.job}", seed=_SEED, job_parameters=task.parameters,
            judges=JUDGES if check else (), replay=f"twodim bench ({task.job} {task.parameters})",
        )  # fmt: skip
        task.figures = result.summary["figures"]
        task.compared = result.summary["statistics"]["cycles_compared"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(one, task) for task in wanted]
        try:
            for number, future in enumerate(as_completed(running), 1):
                future.result()
                if done is not None:
                    done(number)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run(
    *, sim_speed: bool = False, json_out: Path | None = None, quick: bool = False, check: bool = True,
    simulator: str = "verilator",
) -> int:  # fmt: skip
    """The command: measure, print tables, write JSON. Returns 1 where RTL and golden model disagree."""
    console = Console(highlight=False)
    if console.width < _WIDTH:
        console = Console(highlight=False, width=_WIDTH)
    try:
        if sim_speed:
            report = speeds(console, simulator, quick)
        else:
            report = _figures(console, simulator, quick, check)
    except CosimFailed as failure:
        print(f"twodim bench: {failure}", file=sys.stderr)
        return 1
    if json_out is not None:
        write_whole(json_out, json.dumps(report, indent=1) + "\n")
    return 0


def _figures(console: Console, simulator: str, quick: bool, check: bool) -> dict[str, Any]:
    wanted, quarter = tasks(quick), 0

    def done(number: int) -> None:
        nonlocal quarter
        if 4 * number // len(wanted) > quarter:
            quarter = 4 * number // len(wanted)
            print(f"bench: {number} of {len(wanted)} simulations", file=sys.stderr, flush=True)

    measure(wanted, simulator, check, done)
    compared = sum(task.compared for task in wanted)
    console.print(f"ours: {OURS}.\npeer: {PEER_SOURCE}.\n")
    report = {
        "ours": OURS, "peer": PEER_SOURCE, "simulator": simulator, "cycles_compared": compared,
        "digests": {name: digest(workload.make()) for name, workload in WORKLOADS.items()},
        "throughput": tables.throughput(console, wanted), "walks": tables.walks(console, wanted),
        "invalidations": tables.invalidations(console, wanted),
    }  # fmt: skip
    if check:
        console.print(f"{compared:,} cycles compared with the golden model, none differs")
    else:
        console.print("not compared with the golden model")
    return report
