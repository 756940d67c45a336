"""How Icarus Verilog compiles a design, and the cure for Amaranth's blocks that Icarus would leave at X."""

import re
import shutil
from pathlib import Path

from cocotb_tests.harness import children
from cocotb_tests.harness.installation import clean_environment, icarus_version

__all__ = ["compile_program", "recipe", "settled_at_start"]

_FLAGS = ("-g2012",)
_DUMP = """module twodim_dump();
  string dump;
  initial if ($value$plusargs("twodim_dump=%s", dump)) begin $dumpfile(dump); $dumpvars(0, {top}); end
endmodule
"""


def recipe() -> list[object]:
    """What a compiled program depends on besides the Verilog."""
    return [icarus_version(shutil.which("iverilog") or ""), _FLAGS]


def compile_program(directory: Path, verilog_text: str, toplevel: str, timescale: str) -> None:
    """Write `simulation.vvp` into `directory`; raises `BuildFailed`."""
    (directory / "top.v").write_text(settled_at_start(verilog_text))
    (directory / "dump.v").write_text(_DUMP.replace("{top}", toplevel))
    (directory / "options.f").write_text(f"+timescale+{timescale}\n")
    command = [
        "iverilog", "-o", "simulation.vvp", "-s", toplevel, "-s", "twodim_dump", *_FLAGS,
        "-f", "options.f", "top.v", "dump.v",
    ]  # fmt: skip
    children.run_compiler(command, clean_environment(), directory / "build.log", directory)


def settled_at_start(verilog_text: str) -> str:
    """The same Verilog, with every combinational block run once at time 0.

    Icarus runs an `always @*` block only when one of its inputs changes, so that whatever depends on inputs
    that keep their first value would stay X. Yosys writes two kinds of them: blocks that read a dummy register
    which it declares with a constant, here started by an edge of that register; and blocks of one assignment
    to a part of a vector, here repeated in an `initial` block.
    """
    text = re.sub(
        r"^(\s*)reg (\\\$auto\$verilog_backend\S*)\s*= 0;$",
        r"\1reg \2 ; initial begin \2 = 1; #0 \2 = 0; end",
        verilog_text,
        flags=re.MULTILINE,
    )
    return re.sub(
        r"^( *)always @\*\n *(\S[^\n]* = [^\n]*;)$",
        r"\1initial begin #0; \2 end\n\1always @*\n\1  \2",
        text,
        flags=re.MULTILINE,
    )
