"""The child process of lane lean (`python -m`): runs the job that the parameters name on a compiled design.

The same job, lock-step and judges as in `harness.bench_entry`; only the clock differs: a cycle is one call.
"""

import sys
import time
from pathlib import Path

from cocotb_tests.harness.bench_io import bench_parameters, report_result
from cocotb_tests.harness.lean.design import Design
from cocotb_tests.harness.session import RESET_EDGES, Session, reported, session

__all__ = ["main"]


def main(library: Path) -> None:
    """Run the job of the parameters, or a bare loop for speed measurements."""
    parameters = bench_parameters()
    with reported():
        design = Design(library)
        design.set("rst", 1)
        design.run_all(RESET_EDGES)
        design.set("rst", 0)
        if parameters.get("bare"):
            _bare(design, parameters["cycles"])
        else:
            with session(parameters) as current:
                _run(design, current)


def _run(design: Design, current: Session) -> None:
    """The loop: read, judge, drive, and end the cycle; cycles in which nothing can happen in one go."""
    bench, pins = current.bench, current.pins
    cycle, load, run, observed = bench.cycle, pins.load, design.run, design.reader("obs")
    drive = {name: design.writer(name) for name in ("control", "request", "register_request", "read_data")}
    control, request, access = drive["control"], drive["request"], drive["register_request"]
    data = drive["read_data"]
    obs = observed()
    while True:
        inputs = cycle(obs)
        if inputs is None:
            break
        load(inputs)
        control(pins.control)
        if inputs.request is not None:
            request(pins.request)
        if inputs.register_request is not None:
            access(pins.register_request)
        if inputs.read_data is not None:
            data(pins.read_data)
        count = bench.rest
        if count:
            kept = run(count + 1)
            bench.skip(min(kept, count))
            if kept <= count:
                obs = observed()
        elif not run(1):
            obs = observed()
        if bench.now >= current.report_at:
            current.progress()
    current.finish()


def _bare(design: Design, cycles: int) -> None:
    """What the lane costs without a job: a call for each cycle."""
    run = design.run
    started = time.process_time()
    for _ in range(cycles):
        run(1)
    elapsed = time.process_time() - started
    report_result({"cycles": cycles, "loop_seconds": elapsed, "cycles_per_second": round(cycles / elapsed)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
