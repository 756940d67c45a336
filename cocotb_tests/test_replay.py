"""Replays of real machines on the RTL, and broken twins that must be caught."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.command import UserError
from cocotb_tests.harness.cosim import cosimulate
from cocotb_tests.harness.job import run_job_on_model
from cocotb_tests.harness.simulators import LANES, available
from cocotb_tests.replay.faults import same_reason
from cocotb_tests.replay.run import JOB, replay, survey
from pymodel.spec.faults import Reason
from pymodel.spec.params import PRESETS, IommuParams

DATA = Path(__file__).resolve().parent / "data"
HUGE = DATA / "nvme_huge.jsonl.gz"
MULTI = DATA / "multi48_strict.jsonl.gz"
LANES_HERE = available(LANES)
NO_OP = {"type": "iec", "gran": "global", "hi": "0x0", "lo": "0x4"}


def run(path: Path, folder: Path, **options: Any) -> tuple[int, dict[str, Any], str]:
    """Replay; status, report, and the text of the report."""
    status = replay(path, out=folder, **options)
    found = next(folder.iterdir())
    assert sorted(one.name for one in found.iterdir()) == ["report.json", "report.txt"]
    report: dict[str, Any] = json.loads((found / "report.json").read_text())
    return status, report, (found / "report.txt").read_text()


def events_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a recording."""
    with gzip.open(path, "rt") as source:
        return [json.loads(line) for line in source]


def altered(path: Path, folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """A copy of a recording with changes."""
    events = events_of(path)
    change(events)
    copy = folder / "altered.jsonl"
    copy.write_text("".join(json.dumps(event) + "\n" for event in events))
    return copy


def reused_address(events: list[dict[str, Any]], skip: int = 0) -> tuple[int, int]:
    """(line of an invalidation, line of a translation after it) that a stale entry would spoil.

    The page was used, unmapped and invalidated, mapped elsewhere, and used again, all at short distance.
    """
    mapped: dict[str, tuple[int, str]] = {}  # page -> line, entry
    used: dict[str, int] = {}
    dropped: dict[str, tuple[int, str]] = {}  # page -> line of the invalidation, entry before it
    for line, event in enumerate(events):
        kind = event["ev"]
        page = hex(int(event["iova"], 16) & -4096) if "iova" in event else ""
        if kind == "map":
            mapped[page] = (line, event["val"])
        elif kind == "inv" and event.get("gran") == "page" and event["am"] == "0x0":
            page = event["addr"]
            if used.get(page, -1) > mapped.get(page, (line, ""))[0] and line - used[page] < 60:
                dropped[page] = (line, mapped[page][1])
        elif kind == "xlate" and "fault" not in event and not event.get("rpt"):
            before, old = dropped.pop(page, (0, ""))
            if before and old != mapped[page][1] and line - before < 60:
                if not skip:
                    return before, line
                skip -= 1
            used[page] = line
    raise AssertionError("the recording has no such place")


def model_run(path: Path, **options: Any) -> dict[str, Any]:
    """Replay without a simulator; what the player found."""
    found: dict[str, Any] = run_job_on_model(JOB, IommuParams(), 0, path=str(path), **options)["replay"]
    return found


@pytest.mark.parametrize("lane", available(("verilator", "lean")))
def test_whole_recording_passes(lane: str, tmp_path: Path) -> None:
    status, report, text = run(HUGE, tmp_path, simulator=lane)
    assert status == 0
    assert report["verdict"] == "passed"
    assert report["mismatches"] == 0
    counts, statistics = report["counts"], report["statistics"]
    assert counts["dmas"] == report["recording"]["events"]["dma"] == 7775
    assert counts["requests"] + counts["repeated"] == report["recording"]["events"]["xlate"]
    assert counts["compared"] == statistics["translations"] == counts["requests"] + counts["messages"]
    assert counts["waits"] == report["recording"]["events"]["wait"]
    assert statistics["cycles_compared"] == report["cycles"] > 10_000
    assert statistics["hits"] > counts["recorded_hits"]  # the recorded unit drops more than it was asked to
    assert statistics["lookups"]["fault"] == 0
    assert "cycles compared" in text
    assert "ECAP.SC" in text  # the capabilities that differ are listed


@pytest.mark.skipif(len(LANES_HERE) < 2, reason="one lane alone is installed")
def test_all_lanes_do_the_same(tmp_path: Path) -> None:
    results = [run(HUGE, tmp_path / name, simulator=name, limit=120) for name in LANES_HERE]
    assert [status for status, _, _ in results] == [0] * len(LANES_HERE)
    for _, report, _ in results:
        assert [report[key] == results[0][1][key] for key in ("counts", "statistics", "cycles")] == [True] * 3
    assert results[0][1]["counts"]["dmas"] == 120


def test_faults_of_the_recording_stand_in_the_fault_log(tmp_path: Path) -> None:
    status, report, text = run(MULTI, tmp_path, limit=60)
    assert status == 0
    counts = report["counts"]
    assert counts["faults"] == report["statistics"]["faults_answered"] == 7
    assert (
        counts["fault_records_checked"] == 8
    )  # the recorded one, and all seven when the driver clears the log
    assert counts["mapped_register_writes"] == 1
    assert report["ignored_register_writes"] == {"IRTA 0xb8": 1}
    assert "IRTA 0xb8" in text


@pytest.mark.slow
def test_second_recording_whole(tmp_path: Path) -> None:
    status, report, _ = run(MULTI, tmp_path, simulator="lean")
    assert status == 0
    assert report["counts"]["dmas"] == 64_136


@pytest.mark.parametrize("options", [{"latency": 1}, {"latency": 73, "jitter": 40}], ids=str)
def test_recordings_hold_at_other_memory_latencies_on_the_model_lane(options: dict[str, int]) -> None:
    found = model_run(HUGE, **options)
    assert found["mismatch_count"] == 0
    assert found["counts"]["dmas"] == 7775


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
def test_recordings_hold_for_other_sizes_on_the_model_lane(preset: str) -> None:
    found = run_job_on_model(JOB, PRESETS[preset], 0, path=str(MULTI), limit=5000)["replay"]
    assert found["mismatch_count"] == 0
    assert found["counts"]["dmas"] == 5000


def test_altered_address_is_reported_with_line_and_access(tmp_path: Path) -> None:
    events = events_of(HUGE)
    line = [number for number, event in enumerate(events) if event["ev"] == "xlate" and "pte" in event][40]
    wanted = hex(int(events[line]["pa"], 16) ^ 0x4000)
    path = altered(HUGE, tmp_path, lambda events: events[line].update(pa=wanted))
    status, report, text = run(path, tmp_path / "out", limit=120)
    assert status == 1
    assert (report["verdict"], report["mismatches"]) == ("failed", 1)
    found = report["first_mismatches"][0]
    assert found["line"] == line + 1
    assert found["expected"].startswith(hex(int(wanted, 16) & -4096 | int(events[line]["iova"], 16) & 4095))
    assert f"line {line + 1}" in text
    assert events[line]["iova"] in found["what"]
    assert f"bdf {events[line]['bdf']}" in found["dma"]


@pytest.mark.parametrize(
    "change",
    [{"perm": "0x1"}, {"mask": "0x1fffff"}, {"fault": "0x6"}, {"pte": None, "pa": "0x0"}],
    ids=str,
)
def test_any_altered_field_of_an_answer_is_a_mismatch(tmp_path: Path, change: dict[str, Any]) -> None:
    def alter(events: list[dict[str, Any]]) -> None:
        small = (
            event
            for event in events
            if event["ev"] == "xlate" and event["mask"] == "0xfff" and event["perm"] == "0x3"
        )
        next(small).update(change)

    assert model_run(altered(HUGE, tmp_path, alter), limit=100)["mismatch_count"] == 1


def test_altered_fault_record_is_a_mismatch(tmp_path: Path) -> None:
    def alter(events: list[dict[str, Any]]) -> None:
        record = next(event for event in events if event["ev"] == "frr")
        record["hi"] = hex(int(record["hi"], 16) ^ 1)

    found = model_run(altered(MULTI, tmp_path, alter), limit=20)
    assert [one["what"] for one in found["mismatches"]] == ["fault record 0: sid"]


def test_fault_that_did_not_happen_is_a_mismatch(tmp_path: Path) -> None:
    def alter(events: list[dict[str, Any]]) -> None:
        answer = next(event for event in events if event["ev"] == "xlate" and event.get("fault"))
        del answer["fault"]
        answer.update(pa="0x1000", mask="0xfff", perm="0x3", pte="0x1003", dom="0x3")

    assert model_run(altered(MULTI, tmp_path, alter), limit=20)["mismatch_count"] == 1


@pytest.mark.parametrize("skip", [0, 5])
def test_dropped_invalidation_is_caught(tmp_path: Path, skip: int) -> None:
    """The invalidation of a page that is reused becomes one without effect: the answer is stale."""
    dropped, spoilt = reused_address(events_of(MULTI), skip)
    path = altered(MULTI, tmp_path, lambda events: events[dropped].update(NO_OP))
    dmas = sum(event["ev"] == "dma" for event in events_of(MULTI)[: spoilt + 200])
    assert model_run(MULTI, limit=dmas)["mismatch_count"] == 0
    found = model_run(path, limit=dmas)
    assert found["mismatch_count"] >= 1
    assert found["mismatches"][0]["line"] == spoilt + 1


def test_dropped_invalidation_is_caught_on_verilator(tmp_path: Path) -> None:
    dropped, spoilt = reused_address(events_of(MULTI))
    path = altered(MULTI, tmp_path, lambda events: events[dropped].update(NO_OP))
    dmas = sum(event["ev"] == "dma" for event in events_of(MULTI)[: spoilt + 200])
    status, report, _ = run(path, tmp_path / "out", limit=dmas)
    assert status == 1
    assert report["first_mismatches"][0]["line"] == spoilt + 1


def test_replay_stops_after_many_mismatches(tmp_path: Path) -> None:
    def alter(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["ev"] == "xlate" and "pte" in event:
                event["perm"] = "0x0"

    found = model_run(altered(HUGE, tmp_path, alter))
    assert len(found["mismatches"]) == 50
    assert found["counts"]["dmas"] < 1000


@pytest.mark.parametrize("path", sorted(DATA.glob("*.snapshot.json.gz")), ids=lambda path: path.name)
def test_requests_of_a_snapshot_on_verilator(path: Path) -> None:
    job = "cocotb_tests.replay.snapshot_job:snapshot_job"
    result = cosimulate("verilator", IommuParams(), job, seed=0, job_parameters={"path": str(path)})
    assert result.summary["requests"] > 1900
    assert result.summary["wrong"] == []


def test_limit_counts_what_it_leaves() -> None:
    whole, part = survey(HUGE), survey(HUGE, 300)
    assert whole.dmas == 7775
    assert (part.dmas, part.lines) == (300, whole.lines)
    assert 300 <= part.requests < whole.requests


def test_reasons_of_scalable_mode_stand_for_the_recorded_legacy_numbers() -> None:
    assert same_reason(6, Reason.READ_DENIED, scalable=False)
    assert same_reason(6, Reason.SM_READ_DENIED, scalable=True)
    assert same_reason(6, Reason.SM_ENTRY_NOT_PRESENT, scalable=True)
    assert not same_reason(6, Reason.SM_READ_DENIED, scalable=False)
    assert not same_reason(6, Reason.WRITE_DENIED, scalable=True)
    assert not same_reason(0xEE, Reason.WRITE_DENIED, scalable=True)


def test_parameters_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="levels must include 4"):
        replay(HUGE, out=tmp_path / "out", settings=["levels=3,5"])
    assert not list(tmp_path.iterdir())
