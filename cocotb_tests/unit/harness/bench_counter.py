"""cocotb tests on the little counter of test_simulators.py; each is started by name."""

import random

import cocotb
import pytest
from cocotb.triggers import ReadOnly

from cocotb_tests.harness.ports import Port, start_clock
from cocotb_tests.harness.simulators import bench_parameters, report_progress, report_result


@cocotb.test()
async def counts(dut) -> None:
    """The counter counts enabled cycles; the event log goes back to the host."""
    enable, data, count = Port(dut.enable), Port(dut.data), Port(dut.count)
    enable.set(0)
    data.set(0)
    edge = await start_clock(dut.clk)
    cycles = bench_parameters()["cycles"]
    expected, events = 0, []
    for cycle in range(cycles):
        await edge
        got = count.get_int()
        assert got == expected, f"cycle {cycle}: count {got}, expected {expected}"
        go = random.getrandbits(1)
        enable.set(go)
        expected += go
        events.append(got)
        report_progress({"cycle": cycle})
    report_result({"events": events, "enabled": expected})


@cocotb.test()
async def visibility(dut) -> None:
    """A value written at a falling edge reaches the design in the same time step, before the rising edge."""
    enable, data = Port(dut.enable), Port(dut.data)
    inverted, captured = Port(dut.inverted), Port(dut.captured)
    ones = (1 << data.width) - 1
    enable.set(0)
    data.set(0)
    edge = await start_clock(dut.clk)
    await edge
    assert inverted.get_int() == ones, "an output that no clock drives settles before the first edge"
    data.set(ones)
    assert inverted.get_int() == ones, "the write waits until the bench gives up control"
    await ReadOnly()
    assert inverted.get_int() == 0, "the write takes effect in the time step of the falling edge"
    assert captured.get_int() == 0, "registers wait for the rising edge"
    await dut.clk.rising_edge
    assert inverted.get_int() == 0, "the design sees the new value when the rising edge comes"
    await edge
    assert captured.get_int() == ones, "the rising edge after the write samples the new value"
    data.set(5)
    await edge
    assert captured.get() == format(5, f"0{data.width}b"), "one cycle from write to register, every time"
    assert Port(dut.constant).get_int() == 7, "a block without changing inputs settles too"


@cocotb.test()
async def ports(dut) -> None:
    """Ports write each width, skip unchanged values and refuse values that do not fit."""
    enable, data, captured = Port(dut.enable), Port(dut.data), Port(dut.captured)
    enable.set(0)
    data.set(0)
    edge = await start_clock(dut.clk)
    for _ in range(50):
        value = random.getrandbits(data.width)
        await edge
        data.set(value)
        data.set(value)
        await edge
        assert captured.get_int() == value, f"captured {captured.get()}, expected {value:b}"
    for port, value in ((enable, 2), (enable, -1), (data, 1 << data.width)):
        with pytest.raises(ValueError, match=f"not {value}"):
            port.set(value)
    assert (enable.width, data.width) == (1, 200), "widths come from the design"


@cocotb.test()
async def unknown_is_refused(dut) -> None:
    """In Icarus an undriven input makes its reader raise; Verilator has two states only."""
    inverted = Port(dut.inverted)
    try:
        await start_clock(dut.clk)
        inverted.get_int()
    except ValueError as error:
        report_result({"refused": str(error)})
    else:
        report_result({"refused": ""})


@cocotb.test()
async def fails(dut) -> None:
    """Fails on purpose: red must be red."""
    await start_clock(dut.clk)
    report_result({"reached": True})
    got = Port(dut.count).get_int()
    assert got == 99, f"count {got}, expected 99"


@cocotb.test()
async def runs_forever(dut) -> None:
    """Never ends: the host must end it."""
    edge = await start_clock(dut.clk)
    report_progress({"running": True})
    while True:
        await edge
