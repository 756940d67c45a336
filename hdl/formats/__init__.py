"""Amaranth layouts and predicates of the formats that `pymodel.spec` declares."""
