"""Tests of the cycle model, one file per block; they cite the rules of docs/timing.md."""
