"""The event log: what happened in which cycle, one line of text for each event, the same from every
simulator.

An event is a tuple (cycle, name, operand, ...). `SCHEMA` names the operands of every event; an unknown event
or a wrong number of operands is an error when the line is written. Lines look like `1234 accept tag=3
sid=0x100 ...`.
"""

import hashlib
from collections import deque
from pathlib import Path

__all__ = ["SCHEMA", "Event", "EventLog", "format_event"]

Event = tuple[object, ...]

SCHEMA: dict[str, tuple[str, ...]] = {
    "accept": ("tag", "sid:x", "pasid_valid", "pasid:x", "iova:x", "write"),
    "answer": ("port", "tag", "reason:x", "address:x", "level", "r", "w", "snoop"),
    "read": ("id", "address:x"),
    "data": ("id", "error", "digest"),
    "write": ("id", "address:x", "data:x"),
    "written": ("id", "address:x", "data:x"),
    "ack": ("id",),
    "register_write": ("offset:x", "size", "data:x"),
    "register_read": ("offset:x", "size"),
    "register_value": ("data:x",),
    "lookup": ("kind", "replay", "pending", "slot", "level"),
    "arrival": ("id", "dropped"),
    "iotlb_fill": ("index", "level", "sectors:x", "evicted"),
    "psc_fill": ("index", "level", "sectors:x", "evicted"),
    "context_fill": ("index", "evicted"),
    "apply": ("kind",),
    "kill": ("slots:x",),
    "fault": ("recorded",),
    "queue": ("state", "head:x", "error"),
    "reset": ("requests", "cycles"),
    "effect": ("agent", "what", "address:x", "value:x", "old:x"),
    "note": ("agent", "text"),
}
"""Event -> operand names; `:x` prints in hexadecimal."""

_FORMATS = {
    name: f"%d {name}" + "".join(
        " " + (operand.removesuffix(":x") + "=%#x" if operand.endswith(":x") else operand + "=%s")
        for operand in operands
    )
    for name, operands in SCHEMA.items()
}  # fmt: skip


def format_event(event: Event) -> str:
    """One line for one event; raises `ValueError` for an event that the schema does not know."""
    cycle, name, *operands = event
    try:
        return _FORMATS[str(name)] % (cycle, *operands)
    except (KeyError, TypeError) as error:
        raise ValueError(f"event {event!r} does not fit the schema") from error


class EventLog:
    """Writes events to a file (if one is named), keeps the last ones, and a SHA-256 over all lines.

    Lines are written a few thousand at a time; `close` writes the rest. `sha256` and `count` cover every
    event emitted.
    """

    _BATCH = 2000

    def __init__(self, path: Path | str | None = None, last: int = 40) -> None:
        self._file = open(path, "w", encoding="ascii") if path is not None else None  # noqa: SIM115 -- closed in close()
        self._hash = hashlib.sha256()
        self._waiting: list[Event] = []
        self.count = 0
        self.last: deque[Event] = deque(maxlen=last)

    def emit(self, event: Event) -> None:
        """Take one event."""
        self._waiting.append(event)
        if len(self._waiting) >= self._BATCH:
            self.flush()

    def flush(self) -> None:
        """Format and write what waits."""
        events = self._waiting
        if not events:
            return
        text = "".join(format_event(event) + "\n" for event in events)
        self._hash.update(text.encode("ascii"))
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
        self.last.extend(events)
        self.count += len(events)
        events.clear()

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of all lines so far."""
        self.flush()
        return self._hash.hexdigest()

    def tail(self) -> list[str]:
        """The last events as text, oldest first."""
        self.flush()
        return [format_event(event) for event in self.last]

    def close(self) -> None:
        """Write the rest and close the file; more than once does no harm."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
