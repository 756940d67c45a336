"""Builds and runs simulations: the one place that knows how a simulator is called.

Host side: `available`, `require`, `build` (cached by content), `run` (one cocotb module in a child process; a
test that did not run or did not pass is always an exception). Bench side, inside the simulation:
`bench_parameters`, `report_result`, `report_progress`. Times are wall-clock seconds.
"""

import functools
import os
import re
import shutil
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from cocotb_tests.harness.bench_io import bench_parameters, report_progress, report_result
from cocotb_tests.harness.children import run_simulation, tail
from cocotb_tests.harness.compilers import Build, BuildFailed, Waves, build, build_root
from cocotb_tests.harness.installation import (
    LANES,
    SIMULATORS,
    SimulatorMissing,
    available,
    clean_environment,
    libraries,
    require,
    wave_format,
)
from cocotb_tests.harness.outcomes import (
    RunDirectory,
    RunResult,
    SimulationFailed,
    TestOutcome,
    run_directory,
)

__all__ = [
    "LANES",
    "SIMULATORS",
    "Build",
    "BuildFailed",
    "RunResult",
    "SimulationFailed",
    "SimulatorMissing",
    "TestOutcome",
    "Waves",
    "available",
    "bench_parameters",
    "build",
    "build_root",
    "report_progress",
    "report_result",
    "require",
    "run",
    "wave_format",
]


def run(
    build: Build,
    test_module: str,
    *,
    testcase: str | Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    seed: int,
    waves_file: Path | None = None,
    timeout_s: float | None = None,
    quiet: bool = True,
    expected_tests: int = 1,
    keep: bool = False,
    keep_failed: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> RunResult:
    """Run the cocotb tests of `test_module` on `build` in a child process; return only if all of them passed.

    testcase: names of the tests to run; all tests of the module by default.
    parameters: JSON-able values for `bench_parameters()` in the bench.
    seed: seeds Python's `random` in the bench; the same seed gives the same run.
    waves_file: where the dump goes, in the format of `build.waves`; it is written for failing runs too.
    timeout_s: wall-clock seconds after which the simulation is ended and counts as failed.
    quiet: False shows the simulation's log while it runs.
    expected_tests: how many tests must have run; any other number is a failure.
    keep, keep_failed: keep the run directory (log, results) after success, after failure.
    progress: called with each value that the bench hands to `report_progress`.

    Raises `SimulationFailed`; an interrupt ends the simulator and goes on as KeyboardInterrupt.
    """
    require(build.simulator)
    if build.simulator not in SIMULATORS:
        raise ValueError(f"cocotb runs on {' and '.join(SIMULATORS)}, not on {build.simulator}")
    if waves_file is not None and build.waves is None:
        raise ValueError("waves_file needs a build with waves='vcd' or waves='fst'")
    with run_directory(build.simulator, keep, keep_failed) as directory:
        told = directory.hand_over(build.simulator, parameters or {}, seed)
        environment = {**_environment(build, test_module, testcase, seed, directory.path), **told}
        result = _run_in(
            directory, build, test_module, environment, seed, waves_file, timeout_s, quiet, expected_tests,
            progress,
        )  # fmt: skip
        return result if keep else replace(result, log=None)


def _run_in(
    directory: RunDirectory,
    build: Build,
    test_module: str,
    environment: Mapping[str, str],
    seed: int,
    waves_file: Path | None,
    timeout_s: float | None,
    quiet: bool,
    expected_tests: int,
    progress: Callable[[dict[str, Any]], None] | None,
) -> RunResult:
    log = directory.log
    dump = directory.path / f"dump.{build.waves}" if waves_file is not None else None
    started = time.monotonic()
    try:
        status = run_simulation(
            _command(build, dump), environment, directory.path, log, timeout_s, quiet, directory.progress,
            progress,
        )  # fmt: skip
    finally:
        if dump is not None and waves_file is not None and dump.exists():
            waves_file.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(dump, waves_file)
    elapsed = time.monotonic() - started
    result = directory.result()
    tests = _read_results(directory.path / "results.xml")

    def fail(what: str) -> NoReturn:
        raise SimulationFailed(
            f"{test_module} on {build.simulator}, seed {seed}: {what}",
            log=log,
            result=result,
            tests=tests or (),
        )

    if status is None:
        fail(f"ended after the time limit of {timeout_s} s; last lines of {log}:\n{tail(log, 8)}")
    if tests is None:
        fail(f"no results, the simulator ended with status {status}; last lines of {log}:\n{tail(log, 15)}")
    failed = [test for test in tests if test.status == "failed"]
    if failed:
        fail("\n".join(f"{test.name} failed: {test.reason}" for test in failed))
    executed = sum(test.status == "passed" for test in tests)
    if executed != expected_tests:
        fail(f"{executed} tests ran, expected {expected_tests}; log: {log}")
    if status != 0:
        fail(f"tests passed, but the simulator ended with status {status}; {log}:\n{tail(log, 8)}")
    if waves_file is not None and not waves_file.exists():
        fail(f"no wave dump was written; log: {log}")
    return RunResult(build.simulator, tests, elapsed, result, log)


def _command(build: Build, dump: Path | None) -> list[str]:
    if build.simulator == "verilator":
        return [str(build.program), *(("--trace", "--trace-file", str(dump)) if dump else ())]
    from cocotb_tools import config

    waves = (f"-{build.waves}", f"+twodim_dump={dump}") if dump else ("-none",)
    return ["vvp", "-n", "-m", str(config.lib_entry("vpi", "icarus")), str(build.program), *waves]


def _environment(
    build: Build, test_module: str, testcase: str | Sequence[str] | None, seed: int, directory: Path
) -> dict[str, str]:
    import find_libpython
    from cocotb_tools import config

    libpython = _libpython(find_libpython.find_libpython)
    environment = clean_environment()
    environment.update(
        {
            "PATH": os.pathsep.join((environment["PATH"], str(libraries()))),
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            "PYGPI_PYTHON_BIN": sys.executable,
            "GPI_USERS": f"{libpython};{config.pygpi_entry_point()}",
            "TOPLEVEL_LANG": "verilog",
            "COCOTB_TOPLEVEL": build.toplevel,
            "COCOTB_TEST_MODULES": test_module,
            "COCOTB_RESULTS_FILE": str(directory / "results.xml"),
            "COCOTB_RANDOM_SEED": str(seed),
            "COCOTB_TRUST_INERTIAL_WRITES": "1",  # no scheduler phase for each write, as in harness/ports.py
        }
    )
    if testcase is not None:
        names = [testcase] if isinstance(testcase, str) else list(testcase)
        environment["COCOTB_TEST_FILTER"] = r"\.(" + "|".join(re.escape(name) for name in names) + ")$"
    return environment


@functools.cache
def _libpython(find: Callable[[], str | None]) -> str:
    path = find()
    if path is None:
        raise SimulatorMissing(
            "this Python has no shared libpython, which cocotb loads (Debian: libpython3-dev)"
        )
    return path


def _read_results(path: Path) -> tuple[TestOutcome, ...] | None:
    """The outcomes in cocotb's XML file; None when there is no complete file."""
    try:
        cases = ElementTree.parse(path).getroot().iter("testcase")
    except (OSError, ElementTree.ParseError):
        return None
    outcomes = []
    for case in cases:
        name = case.get("name", "?")
        bad = case.find("failure")
        if bad is None:
            bad = case.find("error")
        if bad is not None:
            outcomes.append(TestOutcome(name, "failed", _reason(bad)))
        else:
            outcomes.append(TestOutcome(name, "passed" if case.find("skipped") is None else "skipped", ""))
    return tuple(outcomes)


def _reason(element: ElementTree.Element) -> str:
    """Kind, text and place of a failure: what an engineer reads first."""
    kind, message = element.get("type", "failure"), (element.get("message") or "").strip()
    places = [
        place
        for place in re.findall(r'File "([^"]+)", line (\d+), in (\S+)', element.text or "")
        if "site-packages" not in place[0]
    ]
    where = f" ({Path(places[-1][0]).name}:{places[-1][1]} in {places[-1][2]})" if places else ""
    text = message if kind in ("AssertionError", "failure") and message else f"{kind}: {message}"
    if len(text) > 4000:
        text = text[:4000] + " ..."
    return f"{text}{where}"
