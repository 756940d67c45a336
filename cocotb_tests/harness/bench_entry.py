"""The one cocotb bench: runs the job that the parameters name, one step for each clock cycle.

At the falling edge in the middle of cycle c the observation of c has settled; the job judges it and returns
the inputs of c, which the rising edge that ends c samples.
"""

import time
import traceback
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from cocotb_tests.harness.bench_io import bench_parameters, report_progress, report_result
from cocotb_tests.harness.errors import BenchError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.job import JobContext, load_factory, params_from_json
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.pins import WIDE_PORTS, InputPins
from cocotb_tests.harness.ports import Port, start_clock

_RESET_EDGES = 3
_PROGRESS = 16_384  # cycles between two progress reports


async def _after_reset(dut: Any, ports: dict[str, Port]) -> FallingEdge:
    """Start the clock and reset the design; on return it is the middle of cycle 0, the first one without
    reset."""
    ports["rst"].set(1)
    for name in ("control", *WIDE_PORTS):
        ports[name].set(0)
    edge = await start_clock(dut.clk)
    for _ in range(_RESET_EDGES):
        await edge
    ports["rst"].set(0)
    return edge


@cocotb.test()
async def job(dut: Any) -> None:
    """Run the job of the parameters, or a bare loop for speed measurements."""
    parameters = bench_parameters()
    ports = {name: Port(getattr(dut, name)) for name in ("rst", "control", *WIDE_PORTS, "obs")}
    log: EventLog | None = None
    try:
        if parameters.get("bare"):
            await _bare(dut, ports, parameters["bare"], parameters["cycles"])
            return
        params = params_from_json(parameters["params"])
        if parameters.get("log") is not None:
            log = EventLog(Path(parameters["log"]) if parameters["log"] else None)
        context = JobContext(params, parameters["seed"], parameters["judges"], log, parameters["replay"])
        bench = load_factory(parameters["job"])(context, **parameters["job_parameters"])
        await _run(dut, ports, bench, InputPins(params))
    except BenchError as error:
        fields = getattr(error, "fields", [])
        report_result(
            {"failure": error.explain(), "kind": type(error).__name__, "cycle": error.cycle, "fields": fields}
        )
        raise
    except Exception as error:
        report_result({"failure": traceback.format_exc(), "kind": type(error).__name__})
        raise
    finally:
        if log is not None:
            log.close()


async def _run(dut: Any, ports: dict[str, Port], bench: LockStep, pins: InputPins) -> None:
    """The loop: read, judge, drive."""
    observed, control = ports["obs"].get_int, ports["control"].set
    request, access, data = ports["request"].set, ports["register_request"].set, ports["read_data"].set
    cycle, load = bench.cycle, pins.load
    edge = await _after_reset(dut, ports)
    started, until = time.perf_counter(), _PROGRESS
    while True:
        inputs = cycle(observed())
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
        if bench.now >= until:
            until += _PROGRESS
            report_progress({"cycle": bench.now, "limit": bench.limit, "answers": bench.statistics.answers})
        await edge
    elapsed = time.perf_counter() - started
    summary = bench.finish()
    report_result(
        {**summary, "loop_seconds": round(elapsed, 6), "cycles_per_second": round(bench.now / elapsed)}
    )


async def _bare(dut: Any, ports: dict[str, Port], kind: str, cycles: int) -> None:
    """What the lane costs without a job: `edge` awaits only, `read` also takes the observation."""
    edge = await _after_reset(dut, ports)
    observed = ports["obs"].get_int
    started = time.perf_counter()
    if kind == "read":
        for _ in range(cycles):
            observed()
            await edge
    else:
        for _ in range(cycles):
            await edge
    elapsed = time.perf_counter() - started
    report_result({"cycles": cycles, "loop_seconds": elapsed, "cycles_per_second": round(cycles / elapsed)})
