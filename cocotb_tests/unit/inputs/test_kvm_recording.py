"""Reader of KVM recordings: canonical names, numbers, and one line for whatever cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.kvm_recording import read_kvm_recording

_HEADER = {"header": {"scenario": "s", "kernel": "6.12.1", "address_sizes": "40 bits physical, 48 bits virtual"}}
_OP = {"op": "create_vm"}


def _write(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "recording.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_records_get_the_names_of_the_model(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        _HEADER,
        _OP,
        {"call": {"fn": "kvm_flush_remote_tlbs"}},
        {"callret": {"fn": "kvm_tdp_mmu_map", "ret": 5}},
        {"spte": {"as_id": 0, "gfn": "f0", "level": 1, "old": "0", "new": "80000000000005a0"}, "n": 3},
        {"event": {"name": "kvm_mmu_prepare_zap_page", "text": "sp gen 0 gfn 4a l2 8-byte"}},
        {"npt": None},
        {"npt": {"root": "1000", "level": 4, "empty": "0", "set": [[1, "40", 2, "ff"]]}},
        {"host_pt": {"del": [[1, 2, "200000", 1]]}},
    )
    recording = read_kvm_recording(path)
    assert recording.header.kernel == "6.12.1"
    names = [record.name for record in recording.records]
    assert names == ["op", "call kvm_flush_remote_tlbs", "ret kvm_tdp_mmu_map", "spte", "prepare_zap_page",
                     "npt", "npt", "host_pt"]  # fmt: skip
    spte = recording.records[3]
    assert (spte.fields["gfn"], spte.fields["new"], spte.count) == (0xF0, 0x80000000000005A0, 3)
    assert recording.records[4].fields == {"gfn": 0x4A, "level": 2}
    assert recording.records[5].fields["root"] is None
    assert recording.records[6].fields["set"] == [(1, 0x40, 2, 0xFF)]
    assert recording.records[7].fields["del"] == [(1, 2, 0x200000, 1)]


@pytest.mark.parametrize(
    ("records", "line", "field"),
    [
        ([], None, ""),
        ([_OP], 1, ""),
        ([{"header": {"scenario": "s", "kernel": "6.12"}}], 1, "header.address_sizes"),
        ([{"header": _HEADER["header"] | {"address_sizes": "many"}}], 1, "header.address_sizes"),
        ([{"header": _HEADER["header"] | {"kernel": "new"}}], 1, "header.kernel"),
        ([_HEADER], None, ""),
        ([_HEADER, []], 2, ""),
        ([_HEADER, {"op": "memslot", "change": "create", "slot": 0}], 2, "op.base_gfn"),
        ([_HEADER, _OP, {"spte": {"as_id": 0, "gfn": "zz", "level": 1, "old": "0", "new": "1"}}], 3, "spte.gfn"),
        ([_HEADER, _OP, {"spte": {"as_id": 0, "gfn": "1", "level": 1, "old": "0", "new": "1"}, "n": 0}], 3, "spte.n"),
        ([_HEADER, _OP, {"page_fault": {"addr": "0", "vcpu": 0}}], 3, "page_fault.err"),
        ([_HEADER, _OP, {"npt": {"root": "x"}}], 3, "npt.root"),
        ([_HEADER, _OP, {"npt": {"set": [[1, "40"]]}}], 3, "npt.set[0]"),
        ([_HEADER, _OP, {"call": {}}], 3, "call.fn"),
    ],
)
def test_bad_recording_names_the_place(tmp_path: Path, records: list[Any], line: int | None, field: str) -> None:
    path = _write(tmp_path, *records)
    with pytest.raises(InputError) as caught:
        read_kvm_recording(path)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert "\n" not in str(caught.value)


def test_damaged_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00broken")
    with pytest.raises(InputError):
        read_kvm_recording(path)
    path.write_bytes(json.dumps(_HEADER).encode() + b"\n{\n")
    with pytest.raises(InputError):
        read_kvm_recording(path)
