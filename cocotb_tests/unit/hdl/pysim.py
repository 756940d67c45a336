"""Running one RTL block in Amaranth's own simulator."""

import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from amaranth.hdl import ClockDomain, Module, UnusedElaboratable
from amaranth.sim import Simulator

__all__ = ["clocked", "combinational", "refused"]

Bench = Callable[[Any], Awaitable[None]]


def clocked(component: Any, bench: Bench) -> None:
    """Run `bench(ctx)` against `component` with a clock; `await ctx.tick()` ends a cycle."""
    top = Module()
    top.domains += ClockDomain("sync")  # also for blocks whose registers vanish at some sizes
    top.submodules.dut = component
    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def combinational(component: Any, bench: Bench) -> None:
    """Run `bench(ctx)` against a component without registers; outputs follow `ctx.set` at once."""
    simulator = Simulator(component)
    simulator.add_testbench(bench)
    simulator.run()


def refused(build: Callable[[], object], match: str) -> None:
    """`build()` must raise `ValueError` with this text; Amaranth's warning about what is left is dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        with pytest.raises(ValueError, match=match) as caught:
            build()
        del caught
        gc.collect()
