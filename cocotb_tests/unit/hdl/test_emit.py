"""The Verilog writer: stable bytes, a manifest that tells the truth, files that are complete or absent."""

import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.unit.hdl.pysim import refused
from hdl.emit import TOPLEVEL, TOPLEVEL_AXI, emit, verilog_command
from pymodel.spec.params import PRESETS, IommuParams

ROOT = Path(__file__).resolve().parents[3]
SMALL = PRESETS["small"]
SCRIPT = """
import functools
import hashlib
from hdl.emit import emit
from pymodel.spec.params import PRESETS
print(hashlib.sha256(emit(PRESETS["small"], axi=True).encode()).hexdigest())
"""


@functools.cache
def small(axi: bool = False) -> str:
    """The small preset."""
    return emit(SMALL, axi=axi)


def split(text: str) -> tuple[list[str], str]:
    """Manifest lines and the rest."""
    comment, _, body = text.partition("*/\n")
    return comment.splitlines()[1:], body


def test_emit_same_bytes_from_any_directory_and_hash_seed(tmp_path: Path) -> None:
    """A copy of the sources elsewhere, another working directory and another hash seed change nothing."""
    elsewhere = tmp_path / "another place"
    for package in ("hdl", "pymodel"):
        shutil.copytree(ROOT / package, elsewhere / package, ignore=shutil.ignore_patterns("__pycache__"))
    digests = []
    for sources, directory, seed in ((ROOT, tmp_path, "1"), (elsewhere, elsewhere, "4321")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(sources)}
        result = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT],
            cwd=directory, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests.append(result.stdout.strip())
    here = hashlib.sha256(small(axi=True).encode()).hexdigest()
    assert digests == [here, here]


@pytest.mark.parametrize("axi", [False, True])
def test_emit_manifest_lists_the_ports_of_the_module(axi: bool) -> None:
    """Names, directions and widths of the manifest are those of the Verilog, clock and reset aside."""
    lines, body = split(small(axi))
    name = TOPLEVEL_AXI if axi else TOPLEVEL
    assert lines[:3] == [
        f"module {name}", "timing contract 1 (docs/timing.md)",
        "clock clk (rising edge), reset rst (synchronous, active high)",
    ]  # fmt: skip
    matches = [re.match(r"  (in |out) +(\d+) (\w+)$", line) for line in lines]
    declared = {match[3]: (match[1], int(match[2])) for match in matches if match}
    module = body[body.index(f"module {name}(") :]
    module = module[: module.index("endmodule")]
    found = {
        match[3]: ("in " if match[1] == "input" else "out", int(match[2] or 0) + 1)
        for match in re.finditer(r"^  (input|output) (?:\[(\d+):0\] )?(\w+) *;", module, re.MULTILINE)
    }
    assert found.pop("clk") == found.pop("rst") == ("in ", 1)
    assert declared == found
    assert len(found) > 20


def test_emit_manifest_lists_the_parameters() -> None:
    """Every parameter stands in the manifest, in plain notation."""
    lines, _ = split(emit(IommuParams(walk_slots=3, levels=(3, 4))))
    assert "  walk_slots = 3" in lines
    assert "  levels = 3 4" in lines
    assert "  scalable = true" in lines
    assert "  inval_scope = vtd" in lines


def test_emit_fields_of_packed_ports_fill_them() -> None:
    """The last bit of each packed port's last field is the port's last bit."""
    lines, _ = split(small())
    widths = {line.split()[2]: int(line.split()[1]) for line in lines if line.startswith(("  in ", "  out"))}
    checked, last = 0, {}
    port = ""
    for line in lines[lines.index("bits of requests__payload") :]:
        if line.startswith("bits of "):
            port = line.removeprefix("bits of ")
        elif line.strip():
            last[port] = int(line.split(":")[0])
    for port, bit in last.items():
        assert bit == widths[port] - 1, port
        checked += 1
    assert checked == 10


def test_emit_has_no_source_paths() -> None:
    """Nothing of the machine that wrote it is in the text, and it is plain ASCII."""
    text = small()
    assert text.isascii()
    assert "src =" not in text
    assert str(ROOT) not in text
    assert not re.search(r"\w\.py\b", text)


def test_verilog_command_writes_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds what `emit` returns, replaces an older one, and is named after the preset by default."""
    target = tmp_path / "top.v"
    target.write_text("old")
    assert verilog_command("small", target) == target
    assert target.read_text() == small()
    assert stat.S_IMODE(target.stat().st_mode) & 0o600 == 0o600
    monkeypatch.chdir(tmp_path)
    assert verilog_command("small", axi=True) == Path("build/iommu_small_axi.v")
    assert f"module {TOPLEVEL_AXI}(" in Path("build/iommu_small_axi.v").read_text()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["build", "iommu_small_axi.v", "top.v"]


def test_verilog_command_wrong_preset(tmp_path: Path) -> None:
    """An unknown preset is refused with the names that exist, before anything is written."""
    with pytest.raises(ValueError, match=r"^preset must be one of small, default, large, not 'huge'$"):
        verilog_command("huge", tmp_path / "top.v")
    assert list(tmp_path.iterdir()) == []


def test_verilog_command_wrong_path(tmp_path: Path) -> None:
    """A path that cannot be written is named in one line, and no draft stays behind."""
    with pytest.raises(OSError, match=r"^cannot write .*missing/top\.v: No such file or directory$"):
        verilog_command("small", tmp_path / "missing" / "top.v")
    with pytest.raises(OSError, match=r"^cannot write [^\n]*$"):
        verilog_command("small", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"), [("np_cache", True), ("drain_always", False), ("inv_reorder", True)]
)
@pytest.mark.parametrize("axi", [False, True])
def test_emit_wrong_knob(field: str, value: bool, axi: bool) -> None:
    """Knobs that only the architectural model has are refused by name."""
    changes: dict[str, Any] = {field: value}
    params = IommuParams(**changes)
    refused(lambda: emit(params, axi=axi), rf"^{field} must be {not value} for the RTL, not {value}$")
