"""Reading recordings: what the format allows, and one line for everything else."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.inputs import InputError
from cocotb_tests.inputs import vtd_events as ev
from cocotb_tests.inputs.vtd_trace import Doorbell, played, read_header, read_trace

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDINGS = sorted(DATA.glob("*_*.jsonl.gz"))

HEADER: dict[str, Any] = {
    "ev": "header",
    "format": "vtd-linux-trace-1",
    "cap": "0xd2008c222f0606",
    "ecap": "0xf42",
    "address_width": "0x30",
}
IQA = {"ev": "reg", "off": "0x90", "size": "0x8", "val": "0x5000"}
QIE = {"ev": "reg", "off": "0x18", "size": "0x4", "val": "0x4000000"}
BELL = {"ev": "reg", "off": "0x88", "size": "0x4", "val": "0x20"}
INV = {"ev": "inv", "type": "iotlb", "hi": "0x0", "lo": "0xd2"}
WAIT = {
    "ev": "wait", "iflag": "0x0", "sw": "0x1", "fn": "0x0", "data": "0x2", "addr": "0x9004", "hi": "0x9004",
    "lo": "0x200000025",
}  # fmt: skip
MAP = {"ev": "map", "pa": "0x1008", "val": "0x5003", "lvl": "0x1", "iova": "0x1000", "dom": "0x3"}
PAGE = {"ev": "page", "pa": "0x1000", "lvl": "0x1", "words": []}
XLATE = {"ev": "xlate", "bdf": "0x8", "iova": "0x1000", "rw": "r"}


def write(path: Path, *events: dict[str, Any], end: bool = True, packed: bool = False) -> Path:
    """A recording of these events, numbered, with an end line that counts them."""
    lines = [{"t": number, **event} for number, event in enumerate((HEADER, *events))]
    if end:
        counts = Counter(str(line.get("ev")) for line in lines)
        lines.append({"t": len(lines), "ev": "end", "counts": {name: hex(n) for name, n in counts.items()}})
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


def refused(path: Path) -> str:
    """The one line that reading the whole recording gives, without the file name."""
    with pytest.raises(InputError) as caught:
        list(played(path, read_trace(path)))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path)).lstrip(":")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_carried_recording_is_read_whole(path: Path) -> None:
    events = list(read_trace(path))
    assert events[0] == read_header(path)
    assert type(events[-1]) is ev.End
    counts = Counter(event.ev for event in events[:-1])
    assert dict(counts) == dict(events[-1].counts)
    bells = [event for event in played(path, iter(events)) if isinstance(event, Doorbell)]
    assert sum(len(bell.descriptors) for bell in bells) == counts["inv"] + counts["wait"]


@pytest.mark.parametrize("packed", [False, True])
def test_gzip_and_plain_files_read_alike(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "any.name", MAP, {**XLATE, "fault": "0x6"}, packed=packed)
    header, store, answer, end = read_trace(path)
    assert isinstance(header, ev.Header)
    assert ev.WIDTHS[header.address_width] == 4
    assert isinstance(store, ev.StoreEvent)
    assert (store.pa, store.val) == (0x1008, 0x5003)
    assert isinstance(answer, ev.Translated)
    assert answer.fault == 6
    assert isinstance(end, ev.End)


def test_page_runs_give_value_plus_step() -> None:
    words = ev.page_words(((0x8, 0x1000, 3, 0x1000), (0xFF8, (1 << 64) - 1, 1, 0)))
    assert words[:5] == [0, 0x1000, 0x2000, 0x3000, 0]
    assert words[511] == (1 << 64) - 1


def test_doorbell_takes_its_descriptors_and_what_stands_between(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", IQA, QIE, BELL, INV, MAP, WAIT)
    bell = next(event for event in played(path, read_trace(path)) if isinstance(event, Doorbell))
    assert [one.ev for one in bell.descriptors] == ["inv", "wait"]
    assert [one.ev for one in bell.meanwhile] == ["map"]
    assert list(bell.words()) == [(0x5000, 0xD2), (0x5008, 0), (0x5010, 0x200000025), (0x5018, 0x9004)]


def test_doorbell_wraps_at_the_end_of_the_queue(tmp_path: Path) -> None:
    start = {**BELL, "val": "0xff0"}
    path = write(tmp_path / "t.jsonl", start, IQA, QIE, {**BELL, "val": "0x10"}, INV, WAIT)
    bell = next(event for event in played(path, read_trace(path)) if isinstance(event, Doorbell))
    assert [address for address, _ in bell.words()] == [0x5FF0, 0x5FF8, 0x5000, 0x5008]


@pytest.mark.parametrize(
    ("events", "line", "text"),
    [
        ([{**MAP, "pa": "0x1001"}], 2, "pa: got 0x1001; wanted a hex string below 2**52, a multiple of 8"),
        ([{**MAP, "pa": "0x10000000000000"}], 2, "pa: got 0x10000000000000; wanted a hex string below 2**52"),
        ([{**MAP, "val": "12"}], 2, "val: got 12; wanted a hex string of at most 64 bits"),
        ([{**MAP, "val": "0x1_0"}], 2, "val: got 0x1_0; wanted a hex string"),
        ([{**MAP, "val": 12}], 2, "val: got 12; wanted a hex string"),
        ([{**MAP, "val": "0x10000000000000000"}], 2, "val: got 0x10000000000000000; wanted a hex string"),
        ([{name: MAP[name] for name in MAP if name != "val"}], 2, "val: got nothing; wanted this field"),
        ([MAP, {"ev": "poke"}], 3, "ev: got poke; wanted one of header, phase, reg, page"),
        ([{"name": "x"}], 2, "ev: got nothing; wanted an event name"),
        ([MAP, {**MAP, "t": 1}], 3, "t: got 1; wanted more than 1"),
        ([MAP, {**MAP, "t": "2"}], 3, "t: got 2; wanted an integer"),
        ([XLATE], 2, "wanted pa, mask and perm, or fault"),
        ([{**XLATE, "fault": "0x6", "rw": "x"}], 2, "rw: got x; wanted 'r' or 'w'"),
        (
            [{**XLATE, "fault": "0x6", "bdf": "0x10000"}],
            2,
            'bdf: got 0x10000; wanted a hex string in "0x0"..',
        ),
        (
            [{"ev": "reg", "off": "0x88", "size": "0x2", "val": "0x0"}],
            2,
            'size: got 0x2; wanted one of "0x4",',
        ),
        ([{"ev": "reg", "off": "0x8c", "size": "0x8", "val": "0x0"}], 2, "at a multiple of its size"),
        ([{**PAGE, "words": [["0x0", "0x0", "0x201", "0x0"]]}], 2, "words: got"),
        (
            [{**PAGE, "pa": "0x1008"}],
            2,
            "pa: got 0x1008; wanted a hex string below 2**52, a multiple of 4096",
        ),
        ([INV], 2, "ev: got inv; wanted an IQT write before it that releases it"),
        ([IQA, QIE, BELL, INV], 4, "val: got 0x20; wanted a tail that releases the 1 descriptors after it"),
        ([IQA, QIE, {**BELL, "val": "0x28"}, INV, WAIT], 4, "val: got 0x28; wanted a tail below 0x1000"),
        ([HEADER], 2, "ev: got header; wanted a header in the first line only"),
    ],
)
def test_bad_line_is_named_with_field_value_and_what_was_allowed(
    tmp_path: Path, events: list[dict[str, Any]], line: int, text: str
) -> None:
    found = refused(write(tmp_path / "t.jsonl", *events))
    assert found.startswith(f"{line}: ")
    assert text in found


def test_wrong_format_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {}, end=False)
    path.write_text(path.read_text().replace("trace-1", "trace-2"))
    assert refused(path) == "1: format: got vtd-linux-trace-2; wanted 'vtd-linux-trace-1'"


@pytest.mark.parametrize("length", [5, 1000, 60_000])
def test_truncated_gzip_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(RECORDINGS[-1].read_bytes()[:length])
    assert "wanted a complete gzip file" in refused(path)


def test_file_that_is_no_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_text("hello")
    assert "wanted a complete gzip file" in refused(path)


def test_recording_without_its_end(tmp_path: Path) -> None:
    assert "the recording is cut off" in refused(write(tmp_path / "t.jsonl", MAP, end=False))


def test_lost_line_is_seen_in_the_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", MAP, MAP)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    assert "counts.map: got 0x2; wanted 0x1, the lines that were read" in refused(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "got an empty file"),
        ("{\n", "one JSON object a line"),
        ("[]\n", "format"),
        ("\x00\xff\n", "JSON"),
    ],
)
def test_file_that_is_no_recording(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    assert text in refused(path) or "wanted an object" in refused(path)


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.jsonl")
    assert "got a folder" in refused(tmp_path)
