"""Verilog of the IOMMU with a manifest in its first comment: the same bytes on every machine."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import ValueCastable
from amaranth.lib.wiring import In

from hdl.axi import AxiIommu
from hdl.iommu import Iommu
from pymodel.spec.observation import observation, payloads
from pymodel.spec.params import PRESETS, IommuParams

__all__ = ["CONTRACT_VERSION", "TOPLEVEL", "TOPLEVEL_AXI", "emit", "manifest", "verilog_command"]

CONTRACT_VERSION = 1
"""Version of docs/timing.md and `pymodel.spec`: increased with every change that an integrator can see."""

TOPLEVEL = "twodim_iommu"
"""Module name with native ports."""
TOPLEVEL_AXI = "twodim_iommu_axi"
"""Module name with AXI4 and AXI4-Lite faces."""


def emit(params: IommuParams, path: Path | None = None, *, axi: bool = False) -> str:
    """Verilog-2001 of `Iommu`, or of `AxiIommu` with `axi`; also written to `path` when one is given.

    The text depends on `params`, `axi`, the sources and the version of Amaranth's Yosys, and on nothing else.
    The file is complete or not there. Raises `ValueError` for parameters that the RTL is not built for,
    `OSError` with one line that names `path`.
    """
    component: Any = AxiIommu(params) if axi else Iommu(params)
    name = TOPLEVEL_AXI if axi else TOPLEVEL
    body = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    text = "\n".join(("/*", *manifest(params, component, name), "*/", body))
    if path is not None:
        _write(path, text)
    return text


def verilog_command(preset: str, output: Path | None = None, axi: bool = False) -> Path:
    """What `twodim verilog` does: write the Verilog of a preset, by default to build/; returns where it is.

    Raises `ValueError` for an unknown preset and `OSError` for a path that cannot be written, with one line
    each.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    if output is None:
        output = Path("build") / f"iommu_{preset}{'_axi' if axi else ''}.v"
        try:
            output.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot create {output.parent}: {error.strerror}") from error
    emit(PRESETS[preset], output, axi=axi)
    return output


def manifest(params: IommuParams, component: Any, name: str) -> Iterator[str]:
    """Lines of the manifest: module, contract, parameters, ports, and the fields of packed ports, lowest bit
    first.
    """
    yield f"module {name}"
    yield f"timing contract {CONTRACT_VERSION} (docs/timing.md)"
    yield "clock clk (rising edge), reset rst (synchronous, active high)"
    yield ""
    yield "parameters"
    for field in fields(params):
        value = getattr(params, field.name)
        yield f"  {field.name} = {_plain(value)}"
    yield ""
    yield "ports (direction, bits, name)"
    for path, member, value in component.signature.flatten(component):
        port = "__".join(map(str, path))
        width = len(value.as_value() if isinstance(value, ValueCastable) else value)
        yield f"  {'in ' if member.flow is In else 'out'} {width:4} {port}"
    packed = {f"{stream}__payload": entries for stream, entries in payloads(params).items()}
    packed["obs"] = observation(params)
    present = {"__".join(map(str, path)) for path, _, _ in component.signature.flatten(component)}
    for port, entries in packed.items():
        if port in present:
            yield ""
            yield f"bits of {port}"
            low = 0
            for field_name, width in entries:
                yield f"  {low + width - 1:4}:{low:<4} {field_name}"
                low += width


def _plain(value: object) -> str:
    """A parameter as Verilog engineers and JSON know it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _write(path: Path, text: str) -> None:
    """Replace `path` in one step."""
    draft: Path | None = None
    try:
        if path.exists() and not path.is_file():
            raise IsADirectoryError(0, "it is no regular file")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        draft = Path(name)
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as target:
            target.write(text)
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        draft.replace(path)
        draft = None
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
