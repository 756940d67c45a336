"""P2 proved on the netlist: no output depends combinationally on an input."""

import pytest

from cocotb_tests.unit.hdl.netlist import Netlist
from hdl.emit import TOPLEVEL, TOPLEVEL_AXI, emit
from pymodel.spec.params import PRESETS, IommuParams

SAMPLE = """
module top(input clk, input rst, input [3:0] a, input [3:0] b, input [1:0] address, output registered,
           output [3:0] through, output [3:0] looked_up, output sum);
  reg state;
  reg [3:0] memory [0:3];
  always @(posedge clk) begin state <= !rst && (a[0] ^ state); memory[a[1:0]] <= b; end
  assign registered = state;
  assign through = {a[3], 3'b0} | {4{state}};
  assign looked_up = memory[address];
  assign sum = ^{b[1] & state, 1'b1};
endmodule
"""


def test_path_search_finds_the_paths_of_a_sample() -> None:
    """Through logic and asynchronous memory reads, not through registers or write ports."""
    netlist = Netlist.of(SAMPLE, "top")
    assert netlist.paths() == [("a", "through"), ("address", "looked_up"), ("b", "sum")]


def test_path_search_refuses_loops() -> None:
    """A combinational loop is an error, not a long search."""
    with pytest.raises(AssertionError, match="Yosys failed"):
        Netlist.of("module top(input clk, input a, output b); assign b = a ^ ~b; endmodule", "top")


ONE_SLOT = IommuParams(
    iotlb_entries=1, psc_entries=1, context_entries=1, walk_slots=1, pending_requests=1, rewalk_on_perm=True
)


@pytest.mark.parametrize("axi", [False, True])
@pytest.mark.parametrize(
    "params", [PRESETS["small"], PRESETS["default"], ONE_SLOT], ids=["small", "default", "one slot"]
)
def test_iommu_outputs_depend_on_registers_only(params: IommuParams, axi: bool) -> None:
    """P2 for every port, the observation among them; also: no combinational loop, no net with two drivers."""
    netlist = Netlist.of(emit(params, axi=axi), TOPLEVEL_AXI if axi else TOPLEVEL)
    assert len(netlist.inputs) > 10
    assert "obs" in netlist.outputs
    assert netlist.cells["$dff"] > 30
    assert netlist.paths() == []
