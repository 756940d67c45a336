"""Benches, drivers and tests of twodim; the only package that may import both the model and the RTL."""
