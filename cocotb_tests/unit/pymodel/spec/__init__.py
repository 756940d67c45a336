"""Tests of the vocabulary in which `pymodel.spec` is written."""
