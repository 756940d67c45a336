"""Reading corpora: what the format allows, and one line for everything else."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.inputs import InputError
from cocotb_tests.inputs.corpus import IotlbImage, SecondStageImage, read_corpus

FOLDER = Path(__file__).resolve().parents[2] / "data" / "corpus"

HEADER: dict[str, Any] = {
    "format": "vtd-ss", "haw": 48, "sid": "0x18", "ram": [["0x0", "0x80000000"]], "cap": "0xd2008c222f0606",
    "ecap": "0xf42", "snoop": False, "mode": "legacy", "levels": 4, "kind": "header",
}  # fmt: skip
REQUEST: dict[str, Any] = {"iova": "0x1008", "access": "r", "expect": {"pa": "0x5008", "page": "0x1000"}}
IMAGE: dict[str, Any] = {"id": 0, "format": "vtd-ss", "levels": 4, "root": "0x3000", "haw": 48, "did": 7,
                         "mem": {"0x3000": "0x4003"}, "requests": [REQUEST]}  # fmt: skip
SEQUENCE: dict[str, Any] = {
    "id": 0, "format": "vtd-iotlb", "levels": 3, "root": "0x3000", "did": 7, "how": "reg", "mem": {},
    "ops": [{"op": "req", **REQUEST, "allowed": [{"pa": "0x5008"}]}, {"op": "inv", "what": "iotlb-global"}],
}  # fmt: skip


def write(path: Path, *lines: dict[str, Any] | str, packed: bool = True) -> Path:
    """A corpus file."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def refused(path: Path) -> str:
    """The one line that reading the whole corpus gives."""
    with pytest.raises(InputError) as caught:
        list(read_corpus(path).images())
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def change(value: dict[str, Any], place: str, new: object) -> dict[str, Any]:
    """A deep copy with one value replaced, or removed where `new` is Ellipsis."""
    copy: dict[str, Any] = json.loads(json.dumps(value))
    node: Any = copy
    *path, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    for part in path:
        node = node[part]
    if new is ...:
        del node[last]
    else:
        node[last] = new
    return copy


@pytest.mark.parametrize(("name", "count"), [("vtd-ss4", 40), ("vtd-legacy", 40), ("vtd-iotlb", 40)])
def test_excerpts(name: str, count: int) -> None:
    corpus = read_corpus(FOLDER / f"{name}.jsonl.gz")
    assert corpus.header.sid == 0x18
    assert corpus.header.ram[0] == (0, 0x8000_0000)
    assert len(list(corpus.images())) == count


@pytest.mark.parametrize("packed", [True, False])
def test_other_corpora_of_the_format(tmp_path: Path, packed: bool) -> None:
    header = {**HEADER, "mode": "scalable", "snoop": True, "haw": 39, "levels": 5, "new key": [1]}
    image = {**IMAGE, "levels": 5, "haw": 39}
    request = {**REQUEST, "alt": ["0x7", "0xc"], "spec": {"blocked": True}, "cached": True}
    corpus = read_corpus(write(tmp_path / "c", header, {**image, "requests": [request]}, packed=packed))
    (found,) = corpus.images()
    assert (corpus.header.mode, corpus.header.snoop, corpus.header.haw) == ("scalable", True, 39)
    assert isinstance(found, SecondStageImage)
    assert found.requests[0].alt == (7, 12)
    assert found.requests[0].spec is not None
    assert found.requests[0].spec.blocked


def test_sequences(tmp_path: Path) -> None:
    page = {"op": "inv", "what": "iotlb-page", "did": 7, "addr": "0x1000", "am": 0, "ih": True}
    poke = {"op": "poke", "addr": "0x3000", "value": "0xffffffffffffffff"}
    image = {**SEQUENCE, "ops": [*SEQUENCE["ops"], page, poke]}
    (found,) = read_corpus(write(tmp_path / "c", {**HEADER, "format": "vtd-iotlb"}, image)).images()
    assert isinstance(found, IotlbImage)
    assert len(found.ops) == 4
    assert len(found.requests) == 1


@pytest.mark.parametrize(("place", "value", "text"), [
    ("format", "vtd-x", ":1: format: got vtd-x; wanted 'vtd-ss', 'vtd-legacy' or 'vtd-iotlb'"),
    ("format", ..., ":1: format: got nothing; wanted a header with one of vtd-ss, vtd-legacy, vtd-iotlb"),
    ("haw", 64, ":1: haw: got 64; wanted less than or equal to 52"),
    ("haw", "48", ":1: haw: got 48; wanted a valid integer"),
    ("sid", "0x10000", ':1: sid: got 0x10000; wanted a "0x" string of a 16-bit value'),
    ("ram", ..., ":1: ram: got nothing; wanted this key"),
    ("ram/0/1", "0x0", "not empty and do not overlap"),
    ("mode", "warp", ':1: mode: got warp; wanted "legacy" or "scalable"'),
    ("levels", 6, ":1: levels: got 6; wanted 3, 4 or 5"),
])  # fmt: skip
def test_bad_headers(tmp_path: Path, place: str, value: object, text: str) -> None:
    assert text in refused(write(tmp_path / "c", change(HEADER, place, value), IMAGE))


@pytest.mark.parametrize(("place", "value", "text"), [
    ("root", "0x3008", ':2: root: got 0x3008; wanted a "0x" string of a 52-bit address, a multiple'),
    ("root", "0x10000000000000", ":2: root: got 0x10000000000000; wanted"),
    ("root", 12288, ":2: root: got 12288; wanted"),
    ("root", "3000", ":2: root: got 3000; wanted"),
    ("root", ..., ":2: root: got nothing; wanted this key"),
    ("did", 65536, ":2: did: got 65536; wanted"),
    ("levels", 2, ":2: levels: got 2; wanted 3, 4 or 5"),
    ("mem/0x3000", "0xzz", ":2: mem.0x3000: got 0xzz; wanted"),
    ("mem/0x3004", "0x0", "got 0x3004; wanted"),
    ("mem/0x3000", "-0x1", "got -0x1; wanted"),
    ("requests/0/iova", "1008", ":2: requests[0].iova: got 1008; wanted"),
    ("requests/0/access", "x", ":2: requests[0].access: got x; wanted 'r' or 'w'"),
    ("requests/0/expect", {}, 'wanted exactly one of "pa", "fault" and "blocked": true'),
    ("requests/0/expect", {"pa": "0x1", "fault": "0x5"}, "exactly one of"),
    ("requests/0/expect", {"fault": "0x100"}, ":2: requests[0].expect.fault: got 0x100; wanted"),
    ("requests/0/expect", ..., ":2: requests[0].expect: got nothing; wanted this key"),
    ("requests/0/alt", ["zz"], ":2: requests[0].alt[0]: got zz; wanted"),
    ("requests", "none", ":2: requests: got none; wanted"),
    ("format", "vtd-legacy", ":2: format: got vtd-legacy; wanted 'vtd-ss'"),
])  # fmt: skip
def test_bad_images(tmp_path: Path, place: str, value: object, text: str) -> None:
    assert text in refused(write(tmp_path / "c", HEADER, change(IMAGE, place, value)))


@pytest.mark.parametrize(("place", "value", "text"), [
    ("ops/1/op", "jump", ":2: ops[1].op: got jump; wanted 'req', 'poke', 'inv'"),
    ("ops/1/op", ..., ":2: ops[1].op: got nothing; wanted 'req', 'poke', 'inv'"),
    ("ops/1/what", "tlb", ":2: ops[1].what: got tlb; wanted 'iotlb-global', "),
    ("ops/1/what", "iotlb-domain", 'wanted the key "did", which iotlb-domain needs'),
    ("ops/0/allowed", ..., ":2: ops[0].allowed: got nothing; wanted this key"),
    ("ops/0/allowed", [], ":2: ops[0].allowed: got []; wanted"),
    ("how", "smoke", ":2: how: got smoke; wanted 'qi' or 'reg'"),
])  # fmt: skip
def test_bad_sequences(tmp_path: Path, place: str, value: object, text: str) -> None:
    header = {**HEADER, "format": "vtd-iotlb"}
    assert text in refused(write(tmp_path / "c", header, change(SEQUENCE, place, value)))


def test_damaged_files(tmp_path: Path) -> None:
    whole = (FOLDER / "vtd-ss4.jsonl.gz").read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "wanted a complete gzip file" in refused(cut)
    torn = tmp_path / "torn"
    torn.write_bytes(whole[:3000] + bytes(200) + whole[3200:])
    assert ": got " in refused(torn)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert refused(empty) == ":1: got an empty file; wanted a header line"
    binary = tmp_path / "binary"
    binary.write_bytes(b"{\xff\xfe}\n")
    assert "UTF-8" in refused(binary)
    assert "got No such file or directory; wanted a readable file" in refused(tmp_path / "nowhere")
    assert "got Is a directory; wanted a readable file" in refused(tmp_path)


def test_lines_that_are_no_objects(tmp_path: Path) -> None:
    assert ":1: got []; wanted one JSON object" in refused(write(tmp_path / "c", "[]"))
    assert ":2: got {]; wanted one JSON object (" in refused(write(tmp_path / "c", HEADER, "{]"))
    assert ":3: " in refused(write(tmp_path / "c", HEADER, "", "7"))
    deep = "[" * 100_000
    assert len(refused(write(tmp_path / "c", HEADER, deep))) < 250


def test_an_error_is_one_short_line() -> None:
    error = InputError("f", 3, "a.b", "x\n" * 500, "y\nz")
    assert str(error).count("\n") == 0
    assert len(str(error)) < 120
    assert str(error).startswith("f:3: a.b: got x x x")
    assert (error.line, error.field, error.allowed) == (3, "a.b", "y\nz")
