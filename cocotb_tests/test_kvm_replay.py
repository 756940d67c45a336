"""The model of KVM's TDP MMU against recordings of the real one: every step, every bit; and the replay's power."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.inputs.kvm_recording import read_kvm_recording
from cocotb_tests.kvm_replay import steps
from cocotb_tests.kvm_replay.command import main, replay_file
from pymodel.kvm.version import V6_1, V6_12, KvmVersion

_DATA = Path(__file__).parent / "data" / "kvm"
_FILES = sorted(_DATA.glob("*/*.jsonl.gz"))


_ORACLES = {
    "race_vcpus": {"frames", "host interrupts"},
    "nx_huge": {"pauses of a zap", "runs of the recovery worker"},
    "nx_huge_1g": {"pauses of a zap", "runs of the recovery worker"},
    "random_nx": {"pauses of a zap"},
}
"""What recordings need besides the notifier calls, and the frames of zero pages."""


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_recording_agrees(path: Path) -> None:
    """All records and snapshots, and next to nothing of the rest is told: a page that came and went within a step."""
    result = replay_file(path)
    assert result.divergence is None, result.divergence
    assert result.transitions > 20
    assert result.snapshots
    assert result.events > result.transitions // 600
    name = path.name.split(".")[0]
    assert set(result.oracles) <= {"notifier calls", "frames"} | _ORACLES.get(name, set())
    if name != "race_vcpus":
        assert result.oracles["frames"] <= 4
        assert result.interleavings == 0


def test_all_kernels_are_here() -> None:
    assert {path.parent.name for path in _FILES} == {"6.1", "6.1-la57", "6.12"}


Change = Callable[[dict[str, Any]], None]


def _flip(key: str, field: str, bit: int) -> Change:
    def change(record: dict[str, Any]) -> None:
        record[key][field] = f"{int(record[key][field], 16) ^ 1 << bit:x}"

    return change


def _first(key: str, match: Callable[[dict[str, Any]], bool] = lambda _: True) -> Callable[[dict[str, Any]], bool]:
    return lambda record: isinstance(record.get(key), dict) and match(record[key])


def _change_snapshot(record: dict[str, Any]) -> None:
    level, gfn, count, value = record["npt"]["set"][0]
    record["npt"]["set"][0] = [level, gfn, count, f"{int(value, 16) ^ 0x40:x}"]


_DEFECTS: dict[str, tuple[Callable[[dict[str, Any]], bool], Change | None]] = {
    "dirty bit of a new leaf": (_first("spte", lambda one: one["level"] == 1), _flip("spte", "new", 6)),
    "gfn of a transition": (_first("spte", lambda one: one["level"] == 1), _flip("spte", "gfn", 0)),
    "a transition that is missing": (_first("spte", lambda one: one["level"] == 1), None),
    "error code of a fault": (_first("page_fault"), _flip("page_fault", "err", 1)),
    "a flush that is missing": (_first("call", lambda one: one["fn"] == "kvm_flush_remote_tlbs"), None),
    "the sequence count": (
        _first("call", lambda one: one["fn"] == "kvm_tdp_mmu_map"),
        lambda record: record["call"].update(fault_mmu_seq=7),
    ),
    "a frame number that the host's tables know": (
        _first("call", lambda one: one["fn"] == "kvm_tdp_mmu_map" and one["fault_write"] == 1),
        _flip("call", "fault_pfn", 3),
    ),
    "a return value": (
        _first("callret", lambda one: one["fn"] == "kvm_tdp_mmu_map"),
        lambda record: record["callret"].update(ret=1),
    ),
    "an entry of a snapshot": (_first("npt", lambda one: bool(one.get("set"))), _change_snapshot),
}


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("name", _DEFECTS)
def test_changed_recording_diverges_there(name: str, kernel: str, tmp_path: Path) -> None:
    chosen, change = _DEFECTS[name]
    lines = gzip.decompress((_DATA / kernel / "fault_4k.jsonl.gz").read_bytes()).splitlines()
    place = next(index for index, line in enumerate(lines) if index > 40 and chosen(json.loads(line)))
    if change is None:
        del lines[place]
    else:
        record = json.loads(lines[place])
        change(record)
        lines[place] = json.dumps(record).encode()
    path = tmp_path / "changed.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    divergence = replay_file(path).divergence
    assert divergence is not None
    assert place < divergence.line <= place + 8


def test_other_builds_may_hide_lesser_calls(tmp_path: Path) -> None:
    """The same calls missing at some places: nothing for an unknown build, a divergence for a known one."""
    text = gzip.decompress((_DATA / "6.12" / "fork_4k.jsonl.gz").read_bytes())
    lines, seen = [], 0
    for line in text.splitlines():
        seen += b'"fn":"kvm_tdp_mmu_put_root"' in line
        if b'"fn":"kvm_tdp_mmu_put_root"' not in line or seen % 2:
            lines.append(line)
    path = tmp_path / "hidden.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert replay_file(path).divergence is not None
    path.write_bytes(b"\n".join(lines).replace(b'"kernel":"6.12.117+deb12', b'"kernel":"6.12.40-other'))
    assert replay_file(path).divergence is None


_TWINS: dict[str, tuple[str, str, KvmVersion]] = {
    "split instead of zap on a fault": ("6.1", "nx_huge", replace(V6_1, split_on_fault=True)),
    "children before the flush": ("6.12", "dirty_get_lazy", replace(V6_12, flush_before_children=False)),
    "no early retry": ("6.12", "fault_4k", replace(V6_12, early_retry=False)),
    "root zapped from the top": ("6.12", "slot_delete", replace(V6_12, root_zap_levels=(3, 0))),
    "empty is zero": ("6.12", "fault_4k", replace(V6_12, suppress_ve_empty=False)),
    "one page more split by a clear": ("6.1", "dirty_1g_eager", replace(V6_1, clear_split_short=False)),
    "exact flush of a huge leaf": ("6.1", "slot_delete", replace(V6_1, parent_flush_range=False)),
    "no retry by the emulator": ("6.1", "readonly", replace(V6_1, emulator_retries=False)),
    "every table marked under NX": ("6.1", "nx_huge", replace(V6_1, nx_mark_every_table=True)),
}


@pytest.mark.parametrize("name", _TWINS)
def test_broken_twin_of_the_model_diverges(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, scenario, version = _TWINS[name]
    monkeypatch.setattr(steps, "version_for", lambda release: version)
    assert replay_file(_DATA / kernel / f"{scenario}.jsonl.gz").divergence is not None


def test_command_reports_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _DATA / "6.12" / "fault_hugetlb_2m.jsonl.gz"
    assert main([good]) == 0
    assert capsys.readouterr().out.startswith(f"ok       {good}: 22 steps, 23 transitions")
    text = gzip.decompress(good.read_bytes()).replace(b'"old":"8000000000000000"', b'"old":"0"', 1)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(text)
    assert main([str(bad)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"DIVERGED {bad}:")
    assert any(line.startswith("  recorded spte") for line in out)
    assert any(line.startswith("  model    spte") for line in out)


def test_unreadable_recording_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    assert main([bad, tmp_path / "none.jsonl"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(f"{bad}:1: ")


def test_recording_of_another_kernel_is_read() -> None:
    recording = read_kvm_recording(_DATA / "6.1-la57" / "fault_thp.jsonl.gz")
    assert recording.header.la57
    assert recording.header.address_bits >= 36
