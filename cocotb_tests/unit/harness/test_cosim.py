"""The way to the RTL: deterministic Verilog, logs, waves, speed of the bare loop."""

import hashlib
import re
from pathlib import Path

import pytest

from cocotb_tests.harness.cosim import cosimulate, sim_speed
from cocotb_tests.harness.simulators import available, wave_format
from cocotb_tests.harness.top import PORTS_READ, PORTS_WRITE, verilog
from pymodel.spec.params import PRESETS

PARAMS = PRESETS["small"]
SMOKE = "cocotb_tests.harness.smoke:job"


def test_verilog_is_the_same_each_time_and_names_no_path() -> None:
    text = verilog(PARAMS)
    verilog.cache_clear()
    assert verilog(PARAMS) == text
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert "module bench_top" in text


def test_top_has_exactly_the_ports_that_benches_use() -> None:
    header = re.search(r"module bench_top\((.*?)\)", verilog(PARAMS), re.DOTALL)
    assert header is not None
    assert {name.strip() for name in header[1].split(",")} == {*PORTS_WRITE, *PORTS_READ}


@pytest.mark.parametrize("simulator", available())
def test_log_and_waves_are_written(simulator: str, tmp_path: Path) -> None:
    log, waves = tmp_path / "events", tmp_path / f"dump.{wave_format(simulator)}"
    result = cosimulate(simulator, PARAMS, SMOKE, seed=1, log=log, waves=waves)
    assert waves.stat().st_size > 1000
    assert hashlib.sha256(log.read_bytes()).hexdigest() == result.summary["log_sha256"]


@pytest.mark.parametrize("kind", ["edge", "read"])
def test_bare_loop_has_a_speed(kind: str) -> None:
    assert sim_speed("verilator", PARAMS, 2000, kind) > 1000


def test_wrong_kind_of_loop_is_named() -> None:
    with pytest.raises(ValueError, match="kind must be 'edge' or 'read', not 'model'"):
        sim_speed("verilator", PARAMS, 10, "model")
