"""What a simulation did, and the run directory in which its child process worked."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cocotb_tests.harness.bench_io import BENCH_VARIABLE
from cocotb_tests.harness.compilers import build_root

__all__ = ["RunDirectory", "RunResult", "SimulationFailed", "TestOutcome", "run_directory"]


@dataclass(frozen=True)
class TestOutcome:
    """What one cocotb test did."""

    __test__ = False  # pytest: not a test class

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str
    """Why it failed, in a few lines; empty otherwise."""


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
        tests: Sequence[TestOutcome] = (),
    ) -> None:
        super().__init__(message)
        self.log = log
        self.result: dict[str, Any] = dict(result or {})
        self.tests = tuple(tests)


@dataclass(frozen=True)
class RunResult:
    """What one simulation did; everything in it passed."""

    simulator: str
    tests: tuple[TestOutcome, ...]
    """The cocotb tests; none in lane lean, which runs one job."""
    elapsed: float
    """Wall-clock seconds of the child process, its start included."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the bench handed to `report_result`."""
    log: Path | None = None
    """The simulation's log; None once the run directory is removed, which is the rule after success."""


class RunDirectory:
    """The files between the host and one child process; `harness.bench_io` is the child's side of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "simulation.log"
        self.progress = path / "progress"
        self._result = path / "result.json"
        self._bench = path / "bench.json"

    def hand_over(self, simulator: str, parameters: Mapping[str, object], seed: int) -> dict[str, str]:
        """Write what the bench is told; returns the environment variable that shows it the way."""
        told = {
            "parameters": dict(parameters), "simulator": simulator, "seed": seed,
            "result": str(self._result), "progress": str(self.progress),
        }  # fmt: skip
        self._bench.write_text(json.dumps(told))
        return {BENCH_VARIABLE: str(self._bench)}

    def result(self) -> dict[str, Any]:
        """What the bench reported so far."""
        return dict(json.loads(self._result.read_text())) if self._result.exists() else {}


@contextmanager
def run_directory(simulator: str, keep: bool, keep_failed: bool) -> Iterator[RunDirectory]:
    """A fresh run directory, removed afterwards but for those that shall be kept after success, after failure."""
    build_root().mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(Path(tempfile.mkdtemp(prefix=f"run-{simulator}-", dir=build_root())))
    kept = False
    try:
        yield directory
        kept = keep
    except SimulationFailed as failure:
        kept = keep or keep_failed
        if not kept:
            failure.log = None
        raise
    finally:
        if not kept:
            shutil.rmtree(directory.path, ignore_errors=True)
