"""Streaming reader of `vtd-linux-trace-1` recordings, gzip'd or plain; bad input is an `InputError`."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.values import input_error
from cocotb_tests.inputs.vtd_events import (
    EVENT,
    Descriptor,
    End,
    Event,
    Header,
    Invalidation,
    RegisterWrite,
    Wait,
)

__all__ = ["Doorbell", "lines", "open_input", "played", "read_header", "read_trace"]

_IQT, _IQA, _GCMD = 0x88, 0x90, 0x18
_QIE = 1 << 26
_WIDE = 1 << 11


def open_input(path: Path) -> BinaryIO:
    """Open a file for reading bytes, through gzip if it starts like a gzip file."""
    try:
        if path.is_dir():
            raise InputError(path, None, "", "a folder", "a file")
        with path.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if packed or path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(path, None, "", error.strerror or str(error), "a file that can be read") from None


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; a damaged file is an `InputError`."""
    number = 0
    with open_input(path) as source:
        try:
            for number, line in enumerate(source, 1):
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            raise InputError(path, number + 1, "", f"{error}", "a complete gzip file") from None


def read_header(path: Path) -> Header:
    """The header alone."""
    for number, line in lines(path):
        return _header(path, number, line)
    raise InputError(path, None, "", "an empty file", "a recording that starts with a header")


def _header(path: Path, number: int, line: bytes) -> Header:
    try:
        event = Header.model_validate_json(line)
    except ValidationError as error:
        raise input_error(path, number, error, first="format") from None
    return event


def read_trace(path: Path) -> Iterator[Event]:
    """All events in order, each validated; the header is the first and `end` the last."""
    validate = EVENT.validate_json
    counts: dict[str, int] = {}
    last = -1
    event: Event | None = None
    for number, line in lines(path):
        if type(event) is End:
            raise InputError(path, number, "", line.decode("utf-8", "replace"), "nothing after the end event")
        try:
            event = validate(line) if number > 1 else _header(path, number, line)
        except ValidationError as error:
            raise input_error(path, number, error, skip=1) from None
        if event.t <= last:
            raise InputError(path, number, "t", event.t, f"more than {last}, the t of the line before")
        if number > 1 and type(event) is Header:
            raise InputError(path, number, "ev", "header", "a header in the first line only")
        last = event.t
        counts[event.ev] = counts.get(event.ev, 0) + 1
        if type(event) is End:
            _check_counts(path, number, event, counts)
        yield event
    if event is None:
        raise InputError(path, None, "", "an empty file", "a recording that starts with a header")
    if type(event) is not End:
        raise InputError(
            path, None, "ev", f"{event.ev!r} in the last line", "end there: the recording is cut off"
        )


def _check_counts(path: Path, number: int, end: End, counts: dict[str, int]) -> None:
    for name in sorted(set(counts) - {"end"} | set(end.counts)):
        read = counts.get(name, 0)
        if end.counts.get(name, 0) != read:
            raise InputError(
                path,
                number,
                f"counts.{name}",
                hex(end.counts.get(name, 0)),
                f"{read:#x}, the lines that were read",
            )


@dataclass(frozen=True)
class Doorbell:
    """A write of IQT with the descriptors that it released."""

    write: RegisterWrite
    base: int
    """Address of the queue."""
    position: int
    """Byte offset of the first descriptor."""
    width: int
    """Bytes of a descriptor."""
    size: int
    """Bytes of the queue."""
    descriptors: tuple[Descriptor, ...]
    meanwhile: tuple[Event, ...]
    """Lines of other processors and of devices that stand between the write and the last descriptor."""

    def words(self) -> Iterator[tuple[int, int]]:
        """(address, value) of the 64-bit words of the descriptors in the queue."""
        for number, descriptor in enumerate(self.descriptors):
            address = self.base + (self.position + number * self.width) % self.size
            yield address, descriptor.lo
            yield address + 8, descriptor.hi
            for extra in range(16, self.width, 8):
                yield address + extra, 0


def played(path: Path, events: Iterator[Event]) -> Iterator[Event | Doorbell]:
    """The events, with every write of IQT and the descriptors that it releases in one `Doorbell`.

    A descriptor that nothing released, and a tail without its descriptors, are an `InputError`.
    """
    iqa = tail = 0
    enabled = False
    for event in events:
        kind = type(event)
        if kind is Invalidation or kind is Wait:
            raise InputError(path, event.t + 1, "ev", event.ev, "an IQT write before it that releases it")
        if kind is not RegisterWrite:
            yield event
            continue
        assert isinstance(event, RegisterWrite)
        if event.off == _GCMD:
            enabled = bool(event.val & _QIE)
        elif event.off & ~4 == _IQA:
            shift = 8 * (event.off & 4)
            mask = (1 << 8 * event.size) - 1 << shift
            iqa = iqa & ~mask | event.val << shift & mask
        elif event.off == _IQT:
            position, tail = tail, event.val
            width, size = 32 if iqa & _WIDE else 16, 4096 << (iqa & 7)
            if tail % width or tail >= size:
                raise InputError(
                    path, event.t + 1, "val", hex(tail), f"a tail below {size:#x}, a multiple of {width}"
                )
            count = (tail - position) % size // width if enabled else 0
            if count:
                found, between = _released(path, event, events, count)
                yield Doorbell(event, iqa & -4096, position, width, size, found, between)
                continue
        yield event


def _released(
    path: Path, doorbell: RegisterWrite, events: Iterator[Event], count: int
) -> tuple[tuple[Descriptor, ...], tuple[Event, ...]]:
    """The next `count` descriptors, and what stands between them."""
    found: list[Descriptor] = []
    between: list[Event] = []
    for event in events:
        if isinstance(event, Invalidation | Wait):
            found.append(event)
            if len(found) == count:
                return tuple(found), tuple(between)
        elif isinstance(event, End) or (
            isinstance(event, RegisterWrite) and event.off & ~4 in (_GCMD, _IQA, _IQT)
        ):
            break
        else:
            between.append(event)
    raise InputError(
        path,
        doorbell.t + 1,
        "val",
        hex(doorbell.val),
        f"a tail that releases the {len(found)} descriptors after it",
    )
