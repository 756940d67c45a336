"""The Verilog that Icarus gets."""

from cocotb_tests.harness.icarus import settled_at_start


def test_blocks_of_one_assignment_also_run_at_time_0() -> None:
    single = "  always @*\n    a[2] = b;\n"
    block = "  always @* begin\n    c = d;\n  end\n"
    assert settled_at_start(single + block) == f"  initial begin #0; a[2] = b; end\n{single}{block}"


def test_dummy_register_of_a_block_changes_at_time_0() -> None:
    dummy = "\\$auto$verilog_backend.cc:2355:dump_module$1 "
    assert settled_at_start(f"  reg {dummy} = 0;\n") == f"  reg {dummy}; initial begin {dummy}= 1; #0 {dummy}= 0; end\n"
