"""A design that lane lean has compiled, loaded into this process; the only file that knows its C interface."""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Design"]


class _PortEntry(ctypes.Structure):
    """One entry of the table in `top.cpp`."""

    _fields_ = [("name", ctypes.c_char_p), ("bytes", ctypes.c_void_p), ("size", ctypes.c_uint)]


class Design:
    """The bench top, clocked by calls. One object for each process: a library holds one design.

    Members: `ports`, the bytes of each port but the clock, lowest first, read and written in place; bits above
    the width of a port stay 0. `run(count)` ends up to `count` clock cycles with the inputs that stand in
    `ports`, stops after one that changed the port `obs`, and returns how many kept it; if that is less than
    `count`, one more has ended. Right after it `ports["obs"]` shows the state after the last rising edge.
    Raises `OSError` for a file that is no such library.
    """

    def __init__(self, library: Path) -> None:
        loaded = ctypes.PyDLL(str(library))  # calls keep the interpreter lock: they take a microsecond
        loaded.twodim_ports.restype = ctypes.POINTER(_PortEntry)
        self.run: Callable[[int], int] = loaded.twodim_run
        loaded.twodim_run.argtypes = (ctypes.c_uint,)
        loaded.twodim_run.restype = ctypes.c_uint
        found: dict[str, memoryview] = {}
        for entry in loaded.twodim_ports():
            if entry.name is None:
                break
            area = (ctypes.c_ubyte * entry.size).from_address(entry.bytes)
            found[entry.name.decode()] = memoryview(area).cast("B")
        self.ports: Mapping[str, memoryview] = found
        self._library = loaded

    def run_all(self, count: int) -> None:
        """End `count` clock cycles with the inputs that stand in `ports`."""
        for _ in range(count):
            self.run(1)

    def writer(self, port: str) -> Callable[[int], None]:
        """A function that does what `set` does for one port; it writes only a value that is new."""
        target = self.ports[port]
        size, last = len(target), -1

        def write(value: int) -> None:
            nonlocal last
            if value != last:
                target[:] = value.to_bytes(size, "little")
                last = value

        return write

    def reader(self, port: str) -> Callable[[], int]:
        """A function that does what `get` does for one port."""
        source, from_bytes = self.ports[port], int.from_bytes
        return lambda: from_bytes(source, "little")

    def get(self, port: str) -> int:
        """Value of a port as an unsigned number."""
        return int.from_bytes(self.ports[port], "little")

    def set(self, port: str, value: int) -> None:
        """Give a port a value, which the next rising edge samples; `OverflowError` where it does not fit."""
        target = self.ports[port]
        target[:] = value.to_bytes(len(target), "little")
