"""The cocotb bench of the seeded defects: one simulation runs a scenario once for each judge alone, and without any.

What a judge says is a result here, not a failure: the bench itself always passes.
"""

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from cocotb_tests.harness.bench_io import bench_parameters, report_result
from cocotb_tests.harness.errors import BenchError
from cocotb_tests.harness.job import JobContext, load_factory, params_from_json
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.pins import WIDE_PORTS, InputPins
from cocotb_tests.harness.ports import Port, start_clock

_RESET_EDGES = 3


@cocotb.test()
async def judges(dut: Any) -> None:
    """Run each scenario of the parameters under each set of judges that they list."""
    parameters = bench_parameters()
    params = params_from_json(parameters["params"])
    ports = {name: Port(getattr(dut, name)) for name in ("rst", "control", *WIDE_PORTS, "obs")}
    ports["rst"].set(1)
    for name in ("control", *WIDE_PORTS):
        ports[name].set(0)
    edge = await start_clock(dut.clk)
    found: dict[str, dict[str, Any]] = {}
    for run in parameters["runs"]:
        verdicts = found[run["name"]] = {}
        for mode, chosen in parameters["modes"].items():
            # Judges only watch: a run without any goes as that of the protocol rules did, unless those ended it.
            if not chosen and verdicts["protocol"]["kind"] != "ProtocolError":
                verdicts[mode] = verdicts["protocol"]
                continue
            ports["rst"].set(1)
            ports["control"].set(0)
            for _ in range(_RESET_EDGES):
                await edge
            ports["rst"].set(0)
            context = JobContext(params, parameters["seed"], chosen, replay=f"scenario {run['name']}")
            verdicts[mode] = await _verdict(ports, context, run, InputPins(params), edge)
    report_result({"found": found})


async def _verdict(
    ports: dict[str, Port], context: JobContext, run: dict[str, Any], pins: InputPins, edge: FallingEdge
) -> dict[str, Any]:
    """What one run said, if anything."""
    bench: LockStep | None = None
    try:
        bench = load_factory(run["job"])(context, **run["options"])
        await _run(ports, bench, pins, edge)
    except Exception as error:
        now = bench.now if bench is not None else 0
        text = str(error) if isinstance(error, BenchError) else repr(error)
        return {"kind": type(error).__name__, "cycle": now, "text": text}
    return {"kind": "", "cycle": bench.now, "text": ""}


async def _run(ports: dict[str, Port], bench: LockStep, pins: InputPins, edge: FallingEdge) -> None:
    """The loop of `harness.bench_entry`, without logs and progress."""
    while True:
        inputs = bench.cycle(ports["obs"].get_int())
        if inputs is None:
            break
        pins.load(inputs)
        ports["control"].set(pins.control)
        if inputs.request is not None:
            ports["request"].set(pins.request)
        if inputs.register_request is not None:
            ports["register_request"].set(pins.register_request)
        if inputs.read_data is not None:
            ports["read_data"].set(pins.read_data)
        await edge
    bench.finish()
