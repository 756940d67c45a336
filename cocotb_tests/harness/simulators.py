"""Builds and runs simulations: the one place that knows how a simulator is called.

Host side: `available`, `require`, `build` (cached by content), `run` (one cocotb module in a child process; a
test that did not run or did not pass is always an exception). Bench side, inside the simulation:
`bench_parameters`, `report_result`, `report_progress`. Times are wall-clock seconds.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from cocotb_tests.harness.bench_io import BENCH_VARIABLE, bench_parameters, report_progress, report_result
from cocotb_tests.harness.compilers import Build, BuildFailed, Waves, build, build_root, tail
from cocotb_tests.harness.installation import (
    SIMULATORS,
    SimulatorMissing,
    available,
    clean_environment,
    libraries,
    require,
    wave_format,
)

__all__ = [
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

_POLL = 0.05  # seconds between two looks at the log and the progress file


class SimulationFailed(RuntimeError):
    """A simulation did not pass: a failed bench, a crash, a time limit, or a wrong number of tests.

    The text is short; `log`, `result` (what the bench had reported) and `tests` carry the rest.
    """

    def __init__(
        self,
        message: str,
        *,
        log: Path | None = None,
        result: Mapping[str, Any] | None = None,
        tests: Sequence["TestOutcome"] = (),
    ) -> None:
        super().__init__(message)
        self.log = log
        self.result: dict[str, Any] = dict(result or {})
        self.tests = tuple(tests)


@dataclass(frozen=True)
class TestOutcome:
    """What one cocotb test did."""

    __test__ = False  # pytest: not a test class

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str
    """Why it failed, in a few lines; empty otherwise."""


@dataclass(frozen=True)
class RunResult:
    """What one simulation did; every expected test passed."""

    simulator: str
    tests: tuple[TestOutcome, ...]
    elapsed: float
    """Wall-clock seconds of the child process, its start included."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the bench handed to `report_result`."""
    log: Path | None = None
    """The simulation's log; None once the run directory is removed, which is the rule after success."""


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
    if waves_file is not None and build.waves is None:
        raise ValueError("waves_file needs a build with waves='vcd' or waves='fst'")
    build_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"run-{build.simulator}-", dir=build_root()))
    kept = False
    try:
        result = _run_in(
            directory,
            build,
            test_module,
            testcase,
            parameters or {},
            seed,
            waves_file,
            timeout_s,
            quiet,
            expected_tests,
            progress,
        )
        kept = keep
        return result if keep else RunResult(result.simulator, result.tests, result.elapsed, result.result)
    except SimulationFailed as failure:
        kept = keep or keep_failed
        if not kept:
            failure.log = None
        raise
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _run_in(
    directory: Path,
    build: Build,
    test_module: str,
    testcase: str | Sequence[str] | None,
    parameters: Mapping[str, object],
    seed: int,
    waves_file: Path | None,
    timeout_s: float | None,
    quiet: bool,
    expected_tests: int,
    progress: Callable[[dict[str, Any]], None] | None,
) -> RunResult:
    log, results, answer = directory / "simulation.log", directory / "results.xml", directory / "result.json"
    dump = directory / f"dump.{build.waves}" if waves_file is not None else None
    files = {"result": str(answer), "progress": str(directory / "progress")}
    (directory / "bench.json").write_text(
        json.dumps(
            {
                "parameters": dict(parameters),
                "simulator": build.simulator,
                "seed": seed,
                **files,
            }
        )
    )
    environment = _environment(build, test_module, testcase, seed, directory)
    started = time.monotonic()
    try:
        status = _execute(
            _command(build, dump),
            environment,
            directory,
            log,
            timeout_s,
            quiet,
            Path(files["progress"]),
            progress,
        )
    finally:
        if dump is not None and waves_file is not None and dump.exists():
            waves_file.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(dump, waves_file)
    elapsed = time.monotonic() - started
    result = _read_json(answer)
    tests = _read_results(results)

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
            BENCH_VARIABLE: str(directory / "bench.json"),
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


def _execute(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    timeout_s: float | None,
    quiet: bool,
    progress_file: Path,
    progress: Callable[[dict[str, Any]], None] | None,
) -> int | None:
    """Run the simulator; return its status, or None after the time limit. It never outlives this call."""
    limit = None if timeout_s is None else time.monotonic() + timeout_s
    followers = [] if quiet else [_Follower(log, lambda line: print(line, end="", flush=True))]
    if progress is not None:
        followers.append(_Follower(progress_file, lambda line: progress(json.loads(line))))
    with (
        log.open("w") as output,
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        try:
            while True:
                left = None if limit is None else max(0.0, limit - time.monotonic())
                try:
                    status = child.wait(min(_POLL, left or _POLL) if followers else left)
                    break
                except subprocess.TimeoutExpired:
                    if limit is not None and time.monotonic() >= limit:
                        return None
                for follower in followers:
                    follower.poll()
            for follower in followers:
                follower.poll()
            return status
        finally:
            if child.poll() is None:
                child.kill()


class _Follower:
    """Hands each complete new line of a growing file to a function."""

    def __init__(self, path: Path, take: Callable[[str], object]) -> None:
        self._path, self._take, self._offset = path, take, 0

    def poll(self) -> None:
        """Take the lines that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as source:
            source.seek(self._offset)
            for line in source:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(line.decode(errors="replace"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = json.loads(path.read_text())
    return dict(value)


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
