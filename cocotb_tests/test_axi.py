"""The AXI faces in both simulators, with and without pauses on every channel."""

import functools

import pytest

from cocotb_tests.harness import simulators
from hdl.emit import TOPLEVEL_AXI, emit
from pymodel.spec.params import PRESETS

BENCH = "cocotb_tests.bench_axi"
PARAMS = PRESETS["small"]


@functools.cache
def compiled(simulator: str) -> simulators.Build:
    """The small preset with AXI faces; every port is visible."""
    if simulator not in simulators.available():
        pytest.skip(f"{simulator} is not installed")
    text = emit(PARAMS, axi=True)
    ports = [line.split() for line in text.splitlines() if line.startswith(("  in  ", "  out "))]
    return simulators.build(
        simulator, text, TOPLEVEL_AXI,
        ports_read=[name for direction, _, name in ports if direction == "out"],
        ports_write=["clk", "rst", *(name for direction, _, name in ports if direction == "in")],
    )  # fmt: skip


@pytest.mark.parametrize("pauses", [0.0, 0.5])
@pytest.mark.parametrize("simulator", simulators.SIMULATORS)
def test_axi_faces_translate_invalidate_and_report(simulator: str, pauses: float) -> None:
    """Pages of three sizes, a status write of one dword, fault records and events, through the bus models."""
    seeds = [1] if not pauses else [1, 2, 3]
    for seed in seeds:
        parameters = {"pauses": pauses, "pause_seed": seed}
        run = simulators.run(compiled(simulator), BENCH, seed=seed, parameters=parameters, timeout_s=300)
        result = run.result
        assert min(result["checked"].values()) > 5, result
        if pauses:
            assert min(result["held"].values()) > 0, "every channel was offered in vain at least once"
        assert result["distance"] == [2], "RVALID comes two cycles after AR"

