"""Tables for an offline walk: of a snapshot, of a recording up to a line, or of an image of a corpus."""

import json
from dataclasses import dataclass
from pathlib import Path

from cocotb_tests.command import UserError
from cocotb_tests.corpus.golden import build, params_of
from cocotb_tests.inputs import vtd_events as ev
from cocotb_tests.inputs.corpus import read_corpus
from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.snapshot import SNAPSHOT_FORMAT, read_snapshot
from cocotb_tests.inputs.vtd_trace import lines, read_trace
from pymodel.memory import PhysMem
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import GCMD, REGISTERS

__all__ = ["Tables", "load_tables"]

CORPORA = ("vtd-ss", "vtd-legacy", "vtd-iotlb")


@dataclass(frozen=True)
class Tables:
    """Memory with everything that a walk needs."""

    title: str
    memory: PhysMem
    rtaddr: int
    params: IommuParams
    sources: tuple[int, ...]
    """Source ids that the file knows."""


def _format_of(path: Path) -> str:
    """What the file says it is, from its first line."""
    first = next(lines(path), None)
    if first is None:
        raise InputError(path, None, "", "an empty file", "a snapshot, a recording or a corpus")
    number, text = first
    try:
        value = json.loads(text)
    except ValueError:
        if text.strip() == b"{":  # an indented file can only be a snapshot
            return SNAPSHOT_FORMAT
        raise InputError(path, number, "", text.decode("utf-8", "replace"), "a JSON object") from None
    name = value.get("format", "") if isinstance(value, dict) else ""
    known = (SNAPSHOT_FORMAT, ev.FORMAT, *CORPORA)
    if name not in known:
        raise InputError(path, number, "format", name, "one of " + ", ".join(known))
    return str(name)


def load_tables(path: Path, *, at: int | None = None, image: int | None = None) -> Tables:
    """Read the tables of a file; `at` for a recording, `image` for a corpus."""
    kind = _format_of(path)
    if at is not None and kind != ev.FORMAT:
        raise UserError(f"--at must be left out for {path.name}, which is no recording but {kind}")
    if image is not None and kind not in CORPORA:
        raise UserError(f"--image must be left out for {path.name}, which is no corpus but {kind}")
    if kind == SNAPSHOT_FORMAT:
        snapshot = read_snapshot(path)
        sources = tuple(device.bdf for device in snapshot.devices)
        return Tables(f"snapshot {path.name}", snapshot.memory(), snapshot.rtaddr, IommuParams(), sources)
    if kind == ev.FORMAT:
        return _recorded(path, at)
    return _corpus(path, image)


def _recorded(path: Path, at: int | None) -> Tables:
    memory = PhysMem()
    rtaddr = active = count = 0
    sources: set[int] = set()
    for count, event in enumerate(read_trace(path), 1):
        if at is not None and count > at:
            break
        if isinstance(event, ev.Page):
            for number, word in enumerate(ev.page_words(event.words)):
                memory.store(event.pa + 8 * number, word)
        elif isinstance(event, ev.StoreEvent):
            memory.store(event.pa, event.val)
        elif isinstance(event, ev.Dma):
            sources.add(event.bdf)
        elif isinstance(event, ev.RegisterWrite):
            if event.off & ~4 == REGISTERS["RTADDR"].offset:
                shift = 8 * (event.off & 4)
                mask = (1 << 8 * event.size) - 1 << shift
                rtaddr = rtaddr & ~mask | event.val << shift & mask
            elif event.off == REGISTERS["GCMD"].offset and GCMD.get(event.val, "srtp"):
                active = rtaddr
    if at is not None and at > count:
        raise UserError(f"--at must be in 1..{count}, the lines of {path.name}, not {at}")
    where = f"after line {at}" if at is not None else "at its end"
    return Tables(f"recording {path.name} {where}", memory, active, IommuParams(), tuple(sorted(sources)))


def _corpus(path: Path, image: int | None) -> Tables:
    corpus = read_corpus(path)
    for one in corpus.images():
        if image is None or one.id == image:
            memory, rtaddr = build(corpus.header, one)
            params = params_of(corpus.header, one)
            return Tables(f"corpus {path.name}, image {one.id}", memory, rtaddr, params, (corpus.header.sid,))
    raise UserError(f"--image must be the id of an image of {path.name}, not {image}")
