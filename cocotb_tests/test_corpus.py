"""Recorded verdicts on random table images: the RTL agrees, and an altered expectation is found."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests import cli
from cocotb_tests.corpus import run as corpus_run
from cocotb_tests.corpus.rtl import JOB, groups, load_images
from cocotb_tests.harness.job import run_job_on_model
from cocotb_tests.harness.simulators import available
from cocotb_tests.inputs.corpus import IotlbImage

FOLDER = Path(__file__).resolve().parent / "data" / "corpus"
CORPORA = sorted(FOLDER.glob("*.jsonl.gz"))
NAMES = [path.name.partition(".")[0] for path in CORPORA]


def altered(source: Path, target: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """A copy of a corpus with changes to its lines."""
    with gzip.open(source, "rt") as text:
        lines = [json.loads(line) for line in text]
    change(lines)
    target.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return target


def on_model(path: Path, limit: int | None = None) -> dict[str, Any]:
    """Run the images of a corpus that need the parameters of its first image on the model lane."""
    header, images = load_images(path, limit)
    params = next(iter(groups(header, images)))
    found: dict[str, Any] = run_job_on_model(JOB, params, 0, path=str(path), limit=limit)["corpus"]
    return found


def test_excerpts_are_carried() -> None:
    assert NAMES == ["vtd-iotlb", "vtd-legacy", "vtd-ss4"]


def test_all_excerpts_on_verilator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert corpus_run.run(CORPORA, json_out=report) == 0
    files = json.loads(report.read_text())["files"]
    assert [entry["file"] for entry in files] == [path.name for path in CORPORA]
    for entry in files:
        assert entry["golden"]["count"] == 0
        assert entry["rtl"]["count"] == 0
        assert entry["rtl"]["requests"] == entry["requests"] > 100
        assert entry["rtl"]["cycles"] > entry["requests"]
    assert "RTL disagrees" in capsys.readouterr().out


@pytest.mark.skipif("icarus" not in available(), reason="Icarus is not installed")
@pytest.mark.parametrize("path", CORPORA, ids=NAMES)
def test_first_images_on_icarus(path: Path) -> None:
    assert corpus_run.run([path], simulator="icarus", limit=2) == 0


@pytest.mark.parametrize("path", CORPORA, ids=NAMES)
def test_every_request_is_answered_on_the_model_lane(path: Path) -> None:
    header, images = load_images(path)
    assert len(groups(header, images)) == 1
    found = on_model(path)
    assert found["requests"] == sum(len(image.requests) for image in images)
    assert found["count"] == 0


def wrong_address(lines: list[dict[str, Any]]) -> None:
    """The first translated request of the second image goes elsewhere."""
    for request in lines[2].get("requests") or lines[2]["ops"]:
        if "pa" in request.get("expect", {}):
            request["expect"]["pa"] = hex(int(request["expect"]["pa"], 16) ^ 0x1000)
            if "allowed" in request:
                request["allowed"] = [{"pa": request["expect"]["pa"]}]
            request.pop("spec", None)
            return
    raise AssertionError("no translated request")


def not_recorded(lines: list[dict[str, Any]]) -> None:
    """The first recorded fault becomes a refusal that nobody recorded."""
    for line in lines[1:]:
        for request in line["requests"]:
            if "fault" in request["expect"] and "spec" not in request:
                request["expect"] = {"blocked": True}
                request.pop("alt", None)
                return
    raise AssertionError("no fault")


def recorded(lines: list[dict[str, Any]]) -> None:
    """The first refusal that nobody recorded becomes a fault."""
    for line in lines[1:]:
        for request in line["requests"]:
            if request["expect"].get("blocked") and "spec" not in request:
                request["expect"] = {"fault": "0x6"}
                return
    raise AssertionError("no refusal without a record")


@pytest.mark.parametrize("path", CORPORA, ids=NAMES)
def test_altered_address_is_found_by_the_rtl_run(path: Path, tmp_path: Path) -> None:
    found = on_model(altered(path, tmp_path / "c.jsonl", wrong_address))
    assert found["count"] == 1
    assert found["disagreements"][0]["image"] == 1


@pytest.mark.parametrize("change", [not_recorded, recorded])
def test_fault_log_decides_between_blocked_and_fault(
    change: Callable[[list[dict[str, Any]]], None], tmp_path: Path
) -> None:
    path = altered(FOLDER / "vtd-legacy.jsonl.gz", tmp_path / "c.jsonl", change)
    assert on_model(path)["count"] == 1


def test_altered_expectation_is_reported_with_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = altered(FOLDER / "vtd-ss4.jsonl.gz", tmp_path / "c.jsonl", wrong_address)
    assert cli.run(["corpus", str(path), "--limit", "2"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "expected" in line]
    assert len(lines) == 2
    assert lines[0].startswith("c.jsonl, golden: image 1 request")
    assert lines[1].startswith("c.jsonl, rtl: image 1 request")


def test_sequences_carry_pokes_and_invalidations() -> None:
    _, images = load_images(FOLDER / "vtd-iotlb.jsonl.gz")
    kinds = {op.op for image in images if isinstance(image, IotlbImage) for op in image.ops}
    assert kinds == {"req", "poke", "inv"}


def test_lost_invalidations_are_caught(tmp_path: Path) -> None:
    """The sequences without their invalidations: stale answers that `allowed` does not list."""

    def drop(lines: list[dict[str, Any]]) -> None:
        for line in lines[1:]:
            line["ops"] = [op for op in line["ops"] if op["op"] != "inv"]

    assert on_model(altered(FOLDER / "vtd-iotlb.jsonl.gz", tmp_path / "c.jsonl", drop))["count"] > 0
