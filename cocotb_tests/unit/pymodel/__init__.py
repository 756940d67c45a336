"""Tests of the golden model; the folders mirror `pymodel/`."""
