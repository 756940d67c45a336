"""The default preset goes through synthesis: memories stay memories, nothing becomes a latch."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cocotb_tests.unit.hdl.netlist import yosys
from hdl.emit import TOPLEVEL, emit
from pymodel.spec.params import PRESETS

SCRIPT = f"""
read_verilog top.v
hierarchy -check -top {TOPLEVEL}
proc
flatten
opt -full
wreduce
alumacc
memory -nomap
opt -fast
techmap
opt -fast
abc -lut 6 -script +strash;if
opt_clean
check -assert
write_json top.json
"""


@pytest.mark.slow
def test_synthesis_default_preset(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """LUTs, flip-flops and memory bits of 6-input LUT logic, mapped fast (not for area)."""
    (tmp_path / "top.v").write_text(emit(PRESETS["default"]))
    (tmp_path / "run.ys").write_text(SCRIPT)
    yosys("script run.ys", tmp_path)
    cells = json.loads((tmp_path / "top.json").read_text())["modules"][TOPLEVEL]["cells"].values()
    kinds = Counter(cell["type"] for cell in cells)
    memories = [cell["parameters"] for cell in cells if cell["type"] == "$mem_v2"]
    bits = sorted(int(memory["WIDTH"], 2) * int(memory["SIZE"], 2) for memory in memories)
    registers = {kind: count for kind, count in kinds.items() if "DFF" in kind}
    figures = {"LUT6": kinds["$lut"], "FF": sum(registers.values()), "memory bits": sum(bits)}
    print(f"default preset: {figures}, memories {bits}, registers {registers}")
    for name, value in figures.items():
        record_property(name, value)
    assert not [kind for kind in kinds if "LATCH" in kind.upper()]
    # after the two FIFOs: pending requests, walk results, walk caches, IOTLB (lines of 8 sectors of 39 bits)
    assert bits[2:] == [16 * 110, 8 * 8 * 41, *[16 * 8 * 39] * 4, 32 * 8 * 39]
    assert len(bits) == 9
    assert kinds["$lut"] > 10_000
    assert set(kinds) - {"$scopeinfo", "$mem_v2", "$lut"} == set(registers), "nothing is left unmapped"
