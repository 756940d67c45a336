"""`twodim walk` on snapshots, recordings and corpora."""

import json
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests import cli
from cocotb_tests.inputs.snapshot import read_snapshot
from cocotb_tests.walk.command import explain, parse_bdf
from cocotb_tests.walk.inputs import load_tables
from pymodel.iommu.types import Request
from pymodel.memory import PhysMem
from pymodel.spec import context as layout
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import SS_LEAF_4K

DATA = Path(__file__).resolve().parent / "data"
SNAPSHOT = DATA / "nvme_huge.0.snapshot.json.gz"
RECORDING = DATA / "multi48_strict.jsonl.gz"
CORPUS = DATA / "corpus" / "vtd-legacy.jsonl.gz"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """What the command prints."""
    assert cli.run(["walk", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


def test_every_level_of_a_huge_page_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, SNAPSHOT, "0xffa12345", "--bdf", "00:01.0").splitlines()
    assert text[2:5] == [
        "  root entry at 0xba9b000",
        "    0x0000000000000000000000000bb02001  p=0x1  context_table=0xbb02000",
        "    points to 0xbb02000",
    ]
    assert "  level 1 (PDE), table 0x1feee000 [509] at 0x1feeefe8" in text
    assert text[-1] == "-> 0xaa12345 (0x200000 bytes, rw)"


def test_recording_is_walked_as_it_was_after_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (RECORDING, "0xffffffffd040", "--bdf", "0x8", "--at")
    assert said(capsys, *arguments, 165).splitlines()[-1] == "-> fault 0x6 READ_DENIED, recorded"
    assert said(capsys, *arguments, 166).splitlines()[-1] == "-> 0x4919040 (0x1000 bytes, rw)"
    assert said(capsys, *arguments, 174).splitlines()[-1] == "-> fault 0x6 READ_DENIED, recorded"


def test_json_carries_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, CORPUS, "0x0", "--image", 0, "--json"))
    assert [step["structure"] for step in found["steps"][:2]] == ["root entry", "context entry"]
    assert found["steps"][2]["permission"] in ("rw", "r-", "-w", "--")
    assert set(found["result"]) >= {"reason", "name"}


def test_result_is_that_of_the_architectural_model_for_every_request() -> None:
    tables = load_tables(SNAPSHOT)
    for request in read_snapshot(SNAPSHOT).requests[::20]:
        found = explain(tables, Request(request.bdf, None, request.iova, request.rw == "w"))
        assert found["result"]["reason"] == (request.fault or 0)
        if not request.fault:
            assert found["steps"][-1]["raw"] == f"{request.pte:#018x}"


def test_scalable_mode_and_pass_through_are_explained() -> None:
    memory = PhysMem()
    memory.store(0x1000, 0x2001)
    memory.store(0x2000, 0x3001)
    memory.store(0x3000, 0x4001)
    entry = layout.PASID_ENTRY.pack(p=1, aw=1, pgtt=layout.PGTT_SECOND_STAGE, table=5, did=7)
    for index in range(8):
        memory.store(0x4000 + 8 * index, entry >> 64 * index & (1 << 64) - 1)
    memory.store(0x5000, 0x6003)
    memory.store(0x6000, 0x7003)
    memory.store(0x7000, SS_LEAF_4K.pack(r=1, address=9))
    tables = _tables(memory, 0x1000 | layout.RTADDR.pack(ttm=1))
    found = explain(tables, Request(0, None, 0x123, False))
    names = [step["structure"] for step in found["steps"]]
    assert names[0] == "scalable root entry, half"
    assert names[3:] == ["PASID entry of PASID 0x0", "level 2 (PDPE)", "level 1 (PDE)", "level 0 (PTE)"]
    assert found["result"]["address"] == "0x9123"
    assert explain(tables, Request(0, None, 0x123, True))["result"]["name"] == "SM_WRITE_DENIED"
    memory.store(0x4000, memory.load(0x4000) ^ (2 ^ 4) << 6)  # PGTT: pass-through
    assert explain(tables, Request(0, None, 0x123, True))["steps"][-1]["verdict"].startswith("pass-through")
    assert explain(tables, Request(0, None, 0xFEE00000, True))["note"].startswith(
        "the interrupt address range"
    )
    assert "mode" in explain(_tables(memory, 0x1C00), Request(0, None, 0, False))["note"]


def _tables(memory: PhysMem, rtaddr: int) -> Any:
    tables = load_tables(SNAPSHOT)
    return type(tables)("made here", memory, rtaddr, IommuParams(), (0,))


@pytest.mark.parametrize(
    ("text", "value"), [("0x20", 0x20), ("00:04.0", 0x20), ("ff:1f.7", 0xFFFF), ("8", 8)]
)
def test_source_ids(text: str, value: int) -> None:
    assert parse_bdf(text) == value


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((SNAPSHOT, "0x0"), "--bdf must name one source; the file knows 0x0, 0x8"),
        ((SNAPSHOT, "0x0", "--bdf", "00:20.0"), "--bdf must be like 0x20 or 00:04.0, not '00:20.0'"),
        ((SNAPSHOT, "zz", "--bdf", "8"), "IOVA must be a number in 0..0xffffffffffffffff, not 'zz'"),
        ((SNAPSHOT, "0x10000000000000000"), "IOVA must be a number"),
        (
            (SNAPSHOT, "0x0", "--bdf", "8", "--at", 3),
            "--at must be left out for nvme_huge.0.snapshot.json.gz",
        ),
        ((SNAPSHOT, "0x0", "--bdf", "8", "--image", 3), "--image must be left out"),
        ((RECORDING, "0x0", "--bdf", "8", "--at", 999_999), "--at must be in 1..187817"),
        ((CORPUS, "0x0", "--image", 99_999), "--image must be the id of an image"),
        ((Path(__file__), "0x0"), "wanted a JSON object"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], text: str
) -> None:
    line = said(capsys, *arguments, status=2)
    assert line.startswith("twodim: ")
    assert text in line
    assert line.count("\n") == 1
