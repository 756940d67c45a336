"""Tests of the RTL, block by block and as a netlist."""
