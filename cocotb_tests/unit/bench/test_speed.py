"""The speeds that `twodim bench --sim-speed` prints."""

import pytest

from cocotb_tests.bench.speed import SpeedJob, golden_walks, lane_speeds
from cocotb_tests.harness.cosim import CosimFailed
from cocotb_tests.harness.simulators import available
from pymodel.spec.params import PRESETS

LEAN_JOBS = "cocotb_tests.unit.harness.lean_jobs"

needs_verilator = pytest.mark.skipif(not available(["lean"]), reason="Verilator is not installed")


def job(factory: str) -> SpeedJob:
    """A short job on the small design."""
    return SpeedJob("short", PRESETS["small"], factory, 1, {})


@needs_verilator
def test_both_lanes_are_measured_against_the_bare_loop() -> None:
    row = lane_speeds(job("cocotb_tests.harness.smoke:job"), "verilator", repeat=2, bare_cycles=2000)
    assert row["cycles"] > 100
    assert row["checked_to_bare"] == row["checked"] / row["bare"] > 0
    assert row["lean_to_bare"] == row["lean"] / row["bare"] > 0
    assert row["bare_read"] > 0
    assert row["without_judges"] > 0


@needs_verilator
def test_lanes_that_do_not_do_the_same_are_refused() -> None:
    with pytest.raises(CosimFailed, match=r"short: lane lean counts .*'answers': 33,.*, not .*'answers': 35,"):
        lane_speeds(job(f"{LEAN_JOBS}:depends_on_the_lane"), "verilator", bare_cycles=1000)


def test_golden_walkers_agree() -> None:
    """`golden_walks` itself compares every walk of the one with the other."""
    found = golden_walks(1000)
    assert found["pages"] == 2000
    assert found["walk"] > 0
    assert found["bulk"] > 0
