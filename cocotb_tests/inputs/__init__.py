"""Readers and validators of everything that comes in from outside: recordings and corpora."""

from cocotb_tests.inputs.errors import InputError

__all__ = ["InputError"]
