"""Lane lean: the same jobs and judges without cocotb, and nothing half-written whatever ends it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cocotb_tests.harness.cosim import CosimFailed, build_bench, cosimulate, sim_speed
from cocotb_tests.harness.lean.design import Design
from cocotb_tests.harness.simulators import available, build_root, run
from pymodel.spec.params import PRESETS

pytestmark = pytest.mark.skipif(not available(["lean"]), reason="Verilator is not installed")

PARAMS = PRESETS["small"]
SMOKE = "cocotb_tests.harness.smoke:job"
JOBS = "cocotb_tests.unit.harness.lean_jobs"


@pytest.mark.parametrize(
    ("job", "parameters"),
    [
        (SMOKE, {"latency": 60}),
        ("cocotb_tests.bench.jobs:throughput", {"workload": "rand2000", "latency": 100}),
        ("cocotb_tests.bench.jobs:invalidations", {"latency": 20, "walks": True, "rounds": 3}),
    ],
)
def test_lean_does_what_verilator_does(job: str, parameters: dict[str, object], tmp_path: Path) -> None:
    """Same cycles, statistics and events, byte for byte; long rests pass in one call there, in none here."""
    logs, found = [], []
    for lane in ("lean", "verilator"):
        log = tmp_path / lane
        summary = cosimulate(lane, PARAMS, job, seed=1, job_parameters=parameters, log=log).summary
        assert log.stat().st_size > 1000
        logs.append(log.read_bytes())
        found.append({name: summary[name] for name in ("cycles", "statistics", "log_sha256", "log_events")})
    assert logs[0] == logs[1]
    assert found[0] == found[1]


def test_lean_job_runs_without_cocotb() -> None:
    result = cosimulate("lean", PARAMS, f"{JOBS}:no_cocotb", seed=1)
    assert result.summary["statistics"]["cycles_compared"] == result.summary["cycles"] > 100


def test_lean_failing_job_is_explained(tmp_path: Path) -> None:
    """The mismatch with its cycle, and the whole event log up to it."""
    log = tmp_path / "events"
    with pytest.raises(CosimFailed, match=r"lean, seed 2: .*cycle \d+") as caught:
        cosimulate(
            "lean", PARAMS, "cocotb_tests.red_jobs:broken", seed=2, job_parameters={"what": "model"}, log=log,
            keep_failed=False,
        )  # fmt: skip
    assert caught.value.kind == "Mismatch"
    assert caught.value.result["fields"]
    assert log.read_text().endswith("\n")


def test_lean_crash_leaves_nothing_half_written(tmp_path: Path) -> None:
    log, before = tmp_path / "events", set(build_root().glob("run-lean-*"))
    with pytest.raises(CosimFailed, match="ended by SIGSEGV"):
        cosimulate("lean", PARAMS, f"{JOBS}:crashes", seed=1, log=log, keep_failed=False)
    assert list(tmp_path.iterdir()) == []
    assert set(build_root().glob("run-lean-*")) == before


def test_lean_time_limit_ends_the_run() -> None:
    with pytest.raises(CosimFailed, match=r"time limit of 1\.5 s"):
        cosimulate("lean", PARAMS, f"{JOBS}:endless", seed=1, timeout_s=1.5, keep_failed=False)


def test_lean_interrupt_ends_the_run(tmp_path: Path) -> None:
    """Ctrl-C, also in a long rest: KeyboardInterrupt for the caller, no process and no files."""
    build_bench("lean", PARAMS)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from cocotb_tests.harness.cosim import cosimulate\n"
        "from cocotb_tests.unit.harness.test_lean import JOBS, PARAMS\n"
        "cosimulate('lean', PARAMS, f'{JOBS}:endless', seed=1, log=Path('events'),\n"
        "           progress=lambda value: print('running', flush=True))\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    before = set(build_root().glob("run-lean-*"))
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=folder, env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        grandchildren = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert len(grandchildren) == 1
    assert not Path("/proc", grandchildren[0]).exists()
    assert list(folder.iterdir()) == []
    assert set(build_root().glob("run-lean-*")) == before


def test_lean_bare_loop_has_a_speed() -> None:
    assert sim_speed("lean", PARAMS, 2000) > 1000


def test_lean_build_wrong_waves_or_bench() -> None:
    with pytest.raises(ValueError, match="waves must be None for the lane lean, not 'fst'"):
        build_bench("lean", PARAMS, "fst")
    with pytest.raises(ValueError, match="cocotb runs on verilator and icarus, not on lean"):
        run(build_bench("lean", PARAMS), "cocotb_tests.unit.harness.bench_counter", seed=1)


def test_design_counts_the_cycles_that_keep_the_observation() -> None:
    """Reset changes it at most once; then nothing does until the first register access, which is answered at once."""
    script = (
        "import sys; from pathlib import Path; from cocotb_tests.harness.lean.design import Design\n"
        "design = Design(Path(sys.argv[1]))\n"
        "design.set('rst', 1); design.run_all(3); design.set('rst', 0)\n"
        "quiet = design.run(1000), design.get('obs')\n"
        "design.set('control', 1 << 7)\n"
        "print([*quiet, design.run(5), design.run(5), design.get('obs') != quiet[1]])\n"
    )  # a library holds one design: not in this process
    program = build_bench("lean", PARAMS).program
    done = subprocess.run([sys.executable, "-c", script, program], capture_output=True, text=True, check=True)
    assert done.stdout == "[1000, 3, 0, 5, True]\n"


def test_design_wrong_library(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(OSError, match=r"text\.so"):
        Design(text)
