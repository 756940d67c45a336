"""Runs a job on the RTL: builds the bench top for a simulator, runs it in a child process, returns what it
did.

    result = cosimulate("verilator", params, "cocotb_tests.jobs:smoke", seed=7, job_parameters={"count": 100})
    result.summary["statistics"]["hits"]
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocotb_tests.harness import simulators
from cocotb_tests.harness.job import params_to_json
from cocotb_tests.harness.lean.run import run_lean
from cocotb_tests.harness.lockstep import JUDGES
from cocotb_tests.harness.top import PORTS_READ, PORTS_WRITE, TOPLEVEL, verilog
from pymodel.spec.params import IommuParams

__all__ = ["CosimFailed", "CosimResult", "build_bench", "cosimulate", "sim_speed"]

_ENTRY = "cocotb_tests.harness.bench_entry"


class CosimFailed(AssertionError):
    """A co-simulation that did not pass. The text is the whole explanation, with seed and replay command."""

    def __init__(self, message: str, result: Mapping[str, Any], log: Path | None) -> None:
        super().__init__(message)
        self.result = dict(result)
        """What the bench reported before it failed: `kind`, `cycle`, `fields` of a mismatch."""
        self.log = log

    @property
    def kind(self) -> str:
        """Class name of what was raised in the bench, or "" where the simulation itself failed."""
        return str(self.result.get("kind", ""))


@dataclass(frozen=True)
class CosimResult:
    """A co-simulation that passed."""

    simulator: str
    seed: int
    summary: dict[str, Any]
    """Cycles, statistics, hash of the event log, speed of the loop."""
    elapsed: float
    """Wall-clock seconds of the child process."""


def build_bench(simulator: str, params: IommuParams, waves: simulators.Waves = None) -> simulators.Build:
    """The compiled bench top; cached by content."""
    return simulators.build(
        simulator, verilog(params), TOPLEVEL, ports_read=PORTS_READ, ports_write=PORTS_WRITE, waves=waves
    )


def cosimulate(
    simulator: str,
    params: IommuParams,
    job: str,
    *,
    seed: int,
    job_parameters: Mapping[str, Any] | None = None,
    judges: Collection[str] = JUDGES,
    log: Path | bool | None = None,
    waves: Path | None = None,
    replay: str | None = None,
    timeout_s: float | None = 600,
    progress: Callable[[dict[str, Any]], None] | None = None,
    build: simulators.Build | None = None,
    keep_failed: bool = True,
) -> CosimResult:
    """Run `job` on the RTL and return its summary.

    log: file of the event log, True for its hash alone. waves: file of the wave dump (FST, or VCD by its
    suffix). replay: the command that repeats the run, for failure texts. build: a compiled bench top to
    use. keep_failed: keep the run directory with the simulator's log after a failure.

    Raises `CosimFailed` with the explanation of the bench, `BuildFailed`, `SimulatorMissing`.
    """
    if build is None:
        kind: simulators.Waves = None
        if waves is not None:
            kind = "vcd" if waves.suffix == ".vcd" else simulators.wave_format(simulator)
        build = build_bench(simulator, params, kind)
    draft: Path | None = None
    if isinstance(log, Path):
        log = log.absolute()
        draft = log.with_name(f".{log.name}.{os.getpid()}-{simulator}")
    parameters = {
        "params": params_to_json(params),
        "seed": seed,
        "job": job,
        "job_parameters": dict(job_parameters or {}),
        "judges": sorted(judges),
        "log": None if not log else [str(draft), str(log)] if isinstance(log, Path) else [None, None],
        "replay": replay or f"job {job} on {simulator}, seed {seed}, {dict(job_parameters or {})}",
    }
    try:
        result = _run(build, parameters, seed, waves, timeout_s, progress, keep_failed)
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)  # of a run that was ended from outside, or crashed
    if not result.result.get("cycles"):
        raise CosimFailed(f"{job} on {simulator}, seed {seed}: the bench ran no cycle", result.result, None)
    return CosimResult(simulator, seed, result.result, result.elapsed)


def sim_speed(simulator: str, params: IommuParams, cycles: int, kind: str = "edge") -> float:
    """Cycles per second of a loop without a job: `edge` awaits the clock only, `read` also reads the
    observation."""
    if kind not in ("edge", "read"):
        raise ValueError(f"kind must be 'edge' or 'read', not {kind!r}")
    build = build_bench(simulator, params)
    result = _run(build, {"bare": kind, "cycles": cycles}, 0, None, 600, None)
    return float(result.result["cycles_per_second"])


def _run(
    build: simulators.Build,
    parameters: Mapping[str, Any],
    seed: int,
    waves: Path | None,
    timeout_s: float | None,
    progress: Callable[[dict[str, Any]], None] | None,
    keep_failed: bool = True,
) -> simulators.RunResult:
    try:
        if build.simulator == "lean":
            return run_lean(
                build,
                parameters=parameters,
                seed=seed,
                timeout_s=timeout_s,
                progress=progress,
                keep_failed=keep_failed,
            )
        return simulators.run(
            build,
            _ENTRY,
            parameters=parameters,
            seed=seed,
            waves_file=waves,
            timeout_s=timeout_s,
            progress=progress,
            keep_failed=keep_failed,
        )
    except simulators.SimulationFailed as failure:
        explained = failure.result.get("failure")
        text = f"{build.simulator}, seed {seed}: {explained}" if explained else str(failure)
        raise CosimFailed(text, failure.result, failure.log) from failure
