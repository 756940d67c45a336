"""Tests of `pymodel.paging`: formats alone first, then walks, then updates."""
