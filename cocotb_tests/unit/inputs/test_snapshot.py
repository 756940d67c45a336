"""Snapshots: every request of the carried ones on the golden walk and on the model lane, and bad files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.harness.job import run_job_on_model
from cocotb_tests.inputs import InputError
from cocotb_tests.inputs.snapshot import read_snapshot
from cocotb_tests.replay.snapshot_job import agrees
from pymodel.iommu.translate import translate
from pymodel.iommu.types import Request
from pymodel.spec.params import IommuParams

DATA = Path(__file__).resolve().parents[2] / "data"
SNAPSHOTS = sorted(DATA.glob("*.snapshot.json.gz"))
JOB = "cocotb_tests.replay.snapshot_job:snapshot_job"


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.name)
def test_every_request_agrees_with_the_golden_walk(path: Path) -> None:
    snapshot = read_snapshot(path)
    memory = snapshot.memory()
    params = IommuParams()
    assert len(snapshot.requests) > 1900
    for request in snapshot.requests:
        asked = Request(request.bdf, None, request.iova, request.rw == "w")
        outcome = translate(params, memory, snapshot.rtaddr, asked)
        assert agrees(request, outcome), f"{asked}: {outcome}"


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.name)
def test_every_request_agrees_on_the_model_lane(path: Path) -> None:
    summary = run_job_on_model(JOB, IommuParams(), 0, path=str(path))
    assert summary["requests"] > 1900
    assert summary["wrong"] == []


def test_a_changed_answer_does_not_agree() -> None:
    snapshot = read_snapshot(SNAPSHOTS[0])
    memory = snapshot.memory()
    request = next(one for one in snapshot.requests if one.fault is None)
    asked = Request(request.bdf, None, request.iova, request.rw == "w")
    outcome = translate(IommuParams(), memory, snapshot.rtaddr, asked)
    assert agrees(request, outcome)
    assert not agrees(request, outcome._replace(address=outcome.address ^ 0x1000))
    assert not agrees(request, outcome._replace(w=not outcome.w))
    assert not agrees(request.model_copy(update={"fault": 5}), outcome)


REQUEST = {"bdf": "0x8", "iova": "0x1000", "rw": "r", "fault": "0x6"}
GOOD: dict[str, Any] = {
    "format": "vtd-linux-snapshot-1", "rtaddr": "0x1000", "address_width": "0x30",
    "pages": {"0x1000": ["0x6", [["0x0", "0x2001", "0x1", "0x0"]]]}, "requests": [REQUEST],
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_pages_become_memory(tmp_path: Path, packed: bool) -> None:
    text = json.dumps(GOOD, indent=1).encode()
    path = tmp_path / "s.json"
    path.write_bytes(gzip.compress(text) if packed else text)
    snapshot = read_snapshot(path)
    assert snapshot.memory().load(0x1000) == 0x2001
    assert snapshot.requests[0].fault == 6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"format": "vtd-linux-snapshot-2"},
            "format: got vtd-linux-snapshot-2; wanted 'vtd-linux-snapshot-1'",
        ),
        ({"pages": {"0x1008": ["0x6", []]}}, "wanted a hex string below 2**52, a multiple of 4096"),
        ({"pages": {"0x1000": ["0x6"]}}, "wanted [level, runs]"),
        ({"requests": [{**REQUEST, "iova": "zz"}]}, "requests[0].iova: got zz; wanted a hex string"),
        ({"requests": [{"bdf": "0x8", "iova": "0x0", "rw": "r"}]}, "requests[0]: got"),
        ({"address_width": "0x31"}, "address_width: got 0x31; wanted one of"),
    ],
)
def test_bad_snapshot_is_one_line(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(InputError) as caught:
        read_snapshot(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "s.json.gz"
    path.write_bytes(SNAPSHOTS[0].read_bytes()[:3000])
    with pytest.raises(InputError, match="wanted a complete gzip file"):
        read_snapshot(path)
