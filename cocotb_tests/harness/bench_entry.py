"""The one cocotb bench: runs the job that the parameters name, one step for each clock cycle.

At the falling edge in the middle of cycle c the observation of c has settled; the job judges it and returns
the inputs of c, which the rising edge that ends c samples.
"""

import time
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from cocotb_tests.harness.bench_io import bench_parameters, report_result
from cocotb_tests.harness.pins import WIDE_PORTS
from cocotb_tests.harness.ports import Port, start_clock
from cocotb_tests.harness.session import RESET_EDGES, Session, reported, session


async def _after_reset(dut: Any, ports: dict[str, Port]) -> FallingEdge:
    """Start the clock and reset the design; on return it is the middle of cycle 0, the first one without
    reset."""
    ports["rst"].set(1)
    for name in ("control", *WIDE_PORTS):
        ports[name].set(0)
    edge = await start_clock(dut.clk)
    for _ in range(RESET_EDGES):
        await edge
    ports["rst"].set(0)
    return edge


@cocotb.test()
async def job(dut: Any) -> None:
    """Run the job of the parameters, or a bare loop for speed measurements."""
    parameters = bench_parameters()
    ports = {name: Port(getattr(dut, name)) for name in ("rst", "control", *WIDE_PORTS, "obs")}
    with reported():
        if parameters.get("bare"):
            await _bare(dut, ports, parameters["bare"], parameters["cycles"])
        else:
            edge = await _after_reset(dut, ports)
            with session(parameters) as current:
                await _run(edge, ports, current)


async def _run(edge: FallingEdge, ports: dict[str, Port], current: Session) -> None:
    """The loop: read, judge, drive."""
    observed, control = ports["obs"].get_int, ports["control"].set
    request, access, data = ports["request"].set, ports["register_request"].set, ports["read_data"].set
    bench, pins = current.bench, current.pins
    cycle, load = bench.cycle, pins.load
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
        if bench.now >= current.report_at:
            current.progress()
        await edge
    current.finish()


async def _bare(dut: Any, ports: dict[str, Port], kind: str, cycles: int) -> None:
    """What the lane costs without a job: `edge` awaits only, `read` also takes the observation."""
    edge = await _after_reset(dut, ports)
    observed = ports["obs"].get_int
    started = time.process_time()
    if kind == "read":
        for _ in range(cycles):
            observed()
            await edge
    else:
        for _ in range(cycles):
            await edge
    elapsed = time.process_time() - started
    report_result({"cycles": cycles, "loop_seconds": elapsed, "cycles_per_second": round(cycles / elapsed)})
