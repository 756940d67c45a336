"""Fast access to the ports of a design under test; the only file that uses cocotb's private handle calls.

The clocking discipline that holds in both simulators, one bench step for each clock cycle:

    edge = await start_clock(dut.clk)
    while True:
        await edge                  # the falling edge: every register and every output has settled
        seen = observed.get()       # state after the rising edge half a cycle ago
        request.set(value)          # takes effect at once, well before the next rising edge

A value that is written after a falling edge becomes visible to the design in the same time step, after the
bench gives up control: reading it, or an output that depends on it, in the same step still gives the old
value; from the next trigger on (`ReadOnly`, `RisingEdge`, the next falling edge) it gives the new one. The
rising edge half a cycle later samples it. Writing at a rising edge is a race, which Verilator and Icarus
decide differently: do not.
"""

from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

__all__ = ["Port", "start_clock"]

_DEPOSIT = 0  # the GPI action of a plain write
_INT_BITS = 31  # set_signal_val_int takes a C int


class Port:
    """One port of the top module, with its handle looked up once.

    Widths are bits. One read of a 900-bit output costs about as much as one clock edge; one write of 200 bits
    costs a fifth of it, and a write of the value that is there already costs nothing.
    """

    __slots__ = ("_binary", "_last", "_read", "_text", "_value", "_write_int", "_write_text", "name", "width")

    def __init__(self, handle: Any) -> None:
        """Wrap `handle`, for instance `dut.obs`."""
        inner = handle._handle
        self.name: str = inner.get_name_string()
        self.width: int = inner.get_num_elems()
        self._read = inner.get_signal_val_binstr
        self._write_int = inner.set_signal_val_int
        self._write_text = inner.set_signal_val_binstr
        self._last = -1
        self._text, self._value = "", 0  # what `get_int` read last
        self._binary = f"0{self.width}b"

    def get(self) -> str:
        """The value as `width` characters, most significant bit first; in Icarus also `X` and `Z`."""
        text: str = self._read()
        return text

    def get_int(self) -> int:
        """The value as an unsigned number. Raises ValueError when a bit is unknown."""
        text = self._read()
        if text != self._text:  # the conversion costs as much as the read
            try:
                self._value = int(text, 2)
            except ValueError:
                raise ValueError(f"port {self.name} must be known, not {text!r}") from None
            self._text = text
        return self._value

    def set(self, value: int) -> None:
        """Drive `value` from now on; does nothing when the port has this value from an earlier call.

        Only one `Port` may write a port: each remembers what it wrote last.
        """
        if value == self._last:
            return
        if value < 0 or value >> self.width:
            raise ValueError(f"port {self.name} must be 0..2**{self.width} - 1, not {value!r}")
        if self.width <= _INT_BITS:
            self._write_int(_DEPOSIT, value)
        else:
            self._write_text(_DEPOSIT, format(value, self._binary))
        self._last = value


async def start_clock(clock: Any, period_ns: int = 2) -> FallingEdge:
    """Start a clock that runs in C++ and return its falling edge, to be awaited as often as wanted.

    Inputs that were written before take effect before the first rising edge, which comes 1 ns plus half a
    period after the call; the clock is at a known 0 until then, so that both simulators count the same edges.
    `period_ns` is even.
    """
    clock.value = 0
    await Timer(1, "ns")
    Clock(clock, period_ns, "ns", impl="gpi").start(start_high=False)
    edge: FallingEdge = clock.falling_edge
    return edge
