"""Runs a job in lane lean, in a child process: a crash of the compiled design ends that process alone."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cocotb_tests.harness.children import run_simulation, tail
from cocotb_tests.harness.compilers import Build
from cocotb_tests.harness.installation import clean_environment, require
from cocotb_tests.harness.outcomes import RunResult, SimulationFailed, run_directory

__all__ = ["run_lean"]

_BENCH = "cocotb_tests.harness.lean.bench"


def run_lean(
    build: Build,
    *,
    parameters: Mapping[str, object],
    seed: int,
    timeout_s: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    keep_failed: bool = True,
) -> RunResult:
    """Run the job of `parameters` on a build for `lean`; the counterpart of `simulators.run` without cocotb.

    Raises `SimulationFailed`; an interrupt ends the child process and goes on as KeyboardInterrupt.
    """
    require(build.simulator)
    with run_directory(build.simulator, False, keep_failed) as directory:
        environment = clean_environment()
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        environment.update(directory.hand_over(build.simulator, parameters, seed))
        started = time.monotonic()
        status = run_simulation(
            [sys.executable, "-m", _BENCH, str(build.program)], environment, directory.path, directory.log,
            timeout_s, True, directory.progress, progress,
        )  # fmt: skip
        elapsed = time.monotonic() - started
        log, result = directory.log, directory.result()

        def fail(what: str) -> NoReturn:
            raise SimulationFailed(
                f"{_BENCH} on {build.simulator}, seed {seed}: {what}; last lines of {log}:\n{tail(log, 15)}",
                log=log,
                result=result,
            )

        if status is None:
            fail(f"ended after the time limit of {timeout_s} s")
        if status:
            fail(f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}")
        return RunResult(build.simulator, (), elapsed, result)
