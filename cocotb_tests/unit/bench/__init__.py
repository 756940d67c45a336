"""Tests of the benchmark workloads."""
