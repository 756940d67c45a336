"""Event messages: sent when they are wanted, not while they are masked, as they were written (docs/timing.md M1-M3)."""

from cocotb_tests.harness.errors import ProtocolError
from pymodel.spec.observation import WriteId
from pymodel.spec.registers import EVENT_CONTROL, ICS, REGISTERS

__all__ = ["Messages"]

_NEVER = 1 << 62
_DWORD = (1 << 32) - 1
_IM = EVENT_CONTROL.mask("im")
_RESET = (_IM, 0, 0, 0)  # control, data, lower and upper address
_KEPT = (_IM, _DWORD, _DWORD & ~3, _DWORD)  # bits of them that can be written (R5)
_PARTS = ("CTL", "DATA", "ADDR", "UADDR")
_SOURCES = {"IE": WriteId.INVALIDATION_EVENT, "FE": WriteId.FAULT_EVENT}
_PLACES = {
    REGISTERS[prefix + part].offset: (source, number)
    for prefix, source in _SOURCES.items()
    for number, part in enumerate(_PARTS)
}  # fmt: skip
_ICS = REGISTERS["ICS"].offset


class _Message:
    """Registers and IP of one event. A change has a cycle from which it holds."""

    __slots__ = ("_before", "_from", "_now", "_old", "_since", "_until", "name")

    def __init__(self, source: WriteId) -> None:
        self.name = source.name
        self._now = self._before = _RESET
        self._since = 0
        self._from = self._until = _NEVER  # IP is 1 in the cycles from ... until before ...
        self._old = (_NEVER, _NEVER)  # the same for the rise before

    def write(self, accepted: int, number: int, data: int, mask: int) -> None:
        """A register of the event is written; it holds from the next cycle on (R1)."""
        values = list(self._now)
        mask &= _KEPT[number]
        values[number] = values[number] & ~mask | data & mask
        if self._since != accepted + 1:  # else the other half of the same access
            self._before, self._since = self._now, accepted + 1
        self._now = values[0], values[1], values[2], values[3]

    def cause(self, cycle: int, on: bool) -> None:
        """The cause has another value from `cycle` on; IP follows one cycle later (M3)."""
        if on:
            self._old = self._from, self._until
            self._from, self._until = cycle + 1, _NEVER
        else:
            self._until = min(self._until, cycle + 1)

    def registers(self, cycle: int) -> tuple[int, int, int, int]:
        """What they hold in this cycle."""
        return self._now if cycle >= self._since else self._before

    def pending(self, cycle: int) -> bool:
        """IP in this cycle, the present one or the one before."""
        return self._from <= cycle < self._until or self._old[0] <= cycle < self._old[1]

    def wanted(self, cycle: int) -> bool:
        """IP=1 and IM=0 in this cycle (M2)."""
        return self.pending(cycle) and not self.registers(cycle)[0]

    @property
    def may_be_wanted(self) -> bool:
        """Whether it is, or may soon be, wanted."""
        return self._from < self._until == _NEVER and not self._now[0]

    def loaded(self, cycle: int) -> None:
        """The message went into the write buffer in this cycle; that clears IP."""
        if self._from <= cycle:
            self._until = cycle + 1


class Messages:
    """M2 and M3 for both events, and their place in M1.

    The methods are told of what happens in the order of the cycles; `watch` has to be called in every cycle while
    `watched`, and whenever a write stands on the port for the first cycle.
    """

    __slots__ = ("_clear", "_complete", "_events", "watched")

    def __init__(self) -> None:
        self._events = {source: _Message(source) for source in _SOURCES.values()}  # in the order of M1
        self._complete = False  # ICS.IWC
        self._clear: int | None = None  # cycle of a write that clears it at its end
        self.watched = False

    def _look(self) -> None:
        self.watched = any(event.may_be_wanted for event in self._events.values())

    # --- causes -------------------------------------------------------------------------------------------------

    def fault_cause(self, cycle: int, on: bool) -> None:
        """PFO | PPF | IQE has another value from this cycle on."""
        self._events[WriteId.FAULT_EVENT].cause(cycle, on)
        self._look()

    def completed(self, cycle: int) -> None:
        """A wait has set ICS.IWC at the end of the cycle before."""
        if self._clear == cycle - 1:
            self._clear = None  # what hardware sets wins (R2)
        self._settle(cycle)
        if not self._complete:
            self._complete = True
            self._events[WriteId.INVALIDATION_EVENT].cause(cycle, True)
            self._look()

    def _settle(self, cycle: int) -> None:
        """A clear of ICS.IWC before this cycle has taken effect."""
        if self._clear is not None and self._clear < cycle:
            self._complete = False
            self._events[WriteId.INVALIDATION_EVENT].cause(self._clear + 1, False)
            self._clear = None
            self._look()

    def register_write(self, cycle: int, address: int, data: int, strobe: int) -> None:
        """A register write was accepted (as on `register_requests`)."""
        self._settle(cycle)
        for half in (0, 4):
            offset, strobes, dword = (address & ~7) + half, strobe >> half & 15, data >> 8 * half & _DWORD
            if offset == _ICS and strobes & 1 and ICS.get(dword, "iwc") and self._complete:
                self._clear = cycle
            place = _PLACES.get(offset)
            if place is not None and strobes:
                mask = sum(0xFF << 8 * byte for byte in range(4) if strobes >> byte & 1)
                self._events[place[0]].write(cycle, place[1], dword, mask)
                self._look()

    # --- the port -----------------------------------------------------------------------------------------------

    def watch(self, cycle: int, offered: tuple[int, int, int] | None, empty: bool) -> None:
        """What stands on `writes` for the first cycle, and whether nothing stands there: the write buffer was free in
        the cycle before if either is so."""
        self._settle(cycle)
        before = cycle - 1
        for source, event in self._events.items():
            wanted = event.wanted(before)
            if offered is not None and offered[0] == source:
                self._check(cycle, event, offered, wanted)
            elif wanted and (empty or (offered is not None and offered[0] > source)):
                raise ProtocolError(
                    "M1" if offered else "M2", cycle,
                    f"{event.name} was wanted and the write buffer free, but {offered or 'nothing'!r} was loaded",
                )  # fmt: skip

    def _check(self, cycle: int, event: _Message, offered: tuple[int, int, int], wanted: bool) -> None:
        control, data, lower, upper = event.registers(cycle - 1)
        if not wanted:
            why = "masked" if event.pending(cycle - 1) and control else "not pending"
            raise ProtocolError("M2", cycle, f"{event.name} was sent although it is {why}")
        if offered[1:] != (upper << 32 | lower, data):
            raise ProtocolError(
                "M2", cycle, f"{event.name} must be {data:#x} to {upper << 32 | lower:#x}, not {offered[1:]!r}"
            )
        event.loaded(cycle - 1)
        self._look()
