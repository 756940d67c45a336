"""Recordings made here for what the carried ones lack: scalable mode, pass-through, fault bursts."""

from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.harness.cosim import cosimulate
from cocotb_tests.inputs import InputError
from cocotb_tests.replay.run import JOB, survey
from cocotb_tests.test_replay import model_run
from cocotb_tests.unit.inputs.test_vtd_trace import MAP, write
from pymodel.spec import context as layout
from pymodel.spec import descriptors as d
from pymodel.spec.params import IommuParams

WORD = (1 << 64) - 1
QUEUE, STATUS = 0x10000, 0x11000
PTE = 0x40000


def register(offset: int, value: int, size: int = 4) -> dict[str, Any]:
    """A register write."""
    return {"ev": "reg", "off": hex(offset), "size": hex(size), "val": hex(value), "name": "?"}


def page(address: int, level: int, *words: tuple[int, int]) -> dict[str, Any]:
    """A page that becomes a structure."""
    runs = [[hex(offset), hex(value), "0x1", "0x0"] for offset, value in words]
    return {"ev": "page", "pa": hex(address), "lvl": hex(level), "words": runs}


def parts(word: int, offset: int, count: int) -> list[tuple[int, int]]:
    """A wide entry as (offset, 64-bit word)."""
    return [(offset + 8 * index, word >> 64 * index & WORD) for index in range(count)]


def tables(scalable: bool) -> list[dict[str, Any]]:
    """Structures for 00:01.0 (3 levels, one page at 0x5000) and 00:02.0 (passed through)."""
    leaf = page(PTE, 1, (8 * 5, 0x77003))
    common = [leaf, page(0x41000, 2, (0, PTE | 3)), page(0x42000, 3, (0, 0x41003))]
    if not scalable:
        translated = layout.LEGACY_CONTEXT.pack(p=1, table=0x42, aw=1, did=3)
        passed = layout.LEGACY_CONTEXT.pack(p=1, tt=layout.TT_PASS_THROUGH, aw=1, did=4)
        context = page(0x21000, 5, *parts(translated, 16 * 8, 2), *parts(passed, 16 * 16, 2))
        return [*common, context, page(0x20000, 6, (0, 0x21001))]
    translated = layout.PASID_ENTRY.pack(p=1, aw=1, pgtt=layout.PGTT_SECOND_STAGE, table=0x42, did=3)
    passed = layout.PASID_ENTRY.pack(p=1, aw=1, pgtt=layout.PGTT_PASS_THROUGH, did=4)
    entry = layout.SCALABLE_CONTEXT.pack(p=1, pasid_directory=0x22)
    other = layout.SCALABLE_CONTEXT.pack(p=1, pasid_directory=0x22, rid_pasid=1)
    return [
        *common,
        page(0x23000, 9, *parts(translated, 0, 8), *parts(passed, 64, 8)),
        page(0x22000, 8, (0, 0x23001)),
        page(0x21000, 7, *parts(entry, 32 * 8, 4), *parts(other, 32 * 16, 4)),
        page(0x20000, 6, (0, 0x21001)),
    ]


class Queue:
    """Doorbells with their descriptors."""

    def __init__(self, wide: bool) -> None:
        self._width = 32 if wide else 16
        self._tail = 0
        self._data = 1

    def ring(self, *descriptors: int) -> list[dict[str, Any]]:
        """A doorbell with these descriptors and a wait."""
        self._data += 1
        self._tail = (self._tail + self._width * (len(descriptors) + 1)) % 4096
        wait = d.WAIT.pack(type=5, status_write=1, address=STATUS >> 2, data=self._data)
        lines = [
            {"ev": "inv", "type": "any", "hi": hex(one >> 64), "lo": hex(one & WORD)} for one in descriptors
        ]
        last = {
            "ev": "wait",
            "iflag": "0x0",
            "sw": "0x1",
            "fn": "0x0",
            "data": hex(self._data),
            "addr": hex(STATUS),
            "hi": hex(wait >> 64),
            "lo": hex(wait & WORD),
        }
        return [register(0x88, self._tail), *lines, last]


def started(scalable: bool) -> list[dict[str, Any]]:
    """What brings the unit up."""
    rtaddr = 0x20000 | layout.RTADDR.pack(ttm=int(scalable))
    return [
        register(0x88, 0),
        register(0x90, QUEUE | scalable << 11, 8),
        register(0x18, 1 << 26),
        *tables(scalable),
        register(0x20, rtaddr, 8),
        register(0x18, 1 << 30 | 1 << 26),
        register(0x18, 1 << 31 | 1 << 26),
    ]


def access(bdf: int, iova: int, rw: str, **answer: Any) -> list[dict[str, Any]]:
    """A DMA and its translation."""
    source = {"bdf": hex(bdf), "iova": hex(iova), "rw": rw}
    return [{"ev": "dma", "len": "0x4", **source}, {"ev": "xlate", **source, **answer}]


def mapped(iova: int, rw: str = "r", entry: int = 0x77003) -> list[dict[str, Any]]:
    """A DMA of 00:01.0 that is translated by `entry`."""
    target = hex(entry & -4096 | iova & 4095)
    return access(8, iova, rw, pa=target, mask="0xfff", perm=hex(entry & 3), pte=hex(entry), hit=False)


def fault_burst(count: int, first: int) -> list[dict[str, Any]]:
    """Refused reads; a record for the first; the driver clears record and status."""
    lines: list[dict[str, Any]] = []
    for number in range(count):
        iova = first + 0x1000 * number
        lines += access(8, iova, "r", fault="0x6")
        lines.append({"ev": "fault", "bdf": "0x8", "reason": "0x6", "iova": hex(iova), "rw": "r"})
        if not number:
            lines.append({"ev": "frr", "index": "0x0", "hi": "0x40ffff0600000008", "lo": hex(first)})
    return [*lines, register(0x22C, 1 << 31), register(0x34, 0x83)]


@pytest.mark.parametrize("scalable", [False, True], ids=["legacy", "scalable"])
def test_translated_and_passed_devices(tmp_path: Path, scalable: bool) -> None:
    queue = Queue(wide=scalable)
    inval = d.IOTLB_INV.pack(type=2, g=3, did=3, address=5)
    pasids = [d.PASID_CACHE_INV.pack(type=7, g=3)] if scalable else []
    path = write(
        tmp_path / "t.jsonl",
        *started(scalable),
        *queue.ring(d.CONTEXT_INV.pack(type=1, g=1), *pasids, d.IOTLB_INV.pack(type=2, g=1)),
        *mapped(0x5008),
        *mapped(0x5010, "w"),
        *access(16, 0x123456, "w", pa="0x123456"),
        {"ev": "msi", "bdf": "0x8", "addr": "0xfee01004"},
        {**MAP, "ev": "unmap", "pa": hex(PTE + 40), "val": "0x0"},
        *queue.ring(inval),
        *fault_burst(1, 0x5000),
        {**MAP, "pa": hex(PTE + 40), "val": "0x78001"},
        *mapped(0x5FF8, entry=0x78001),
        *access(8, 0x5000, "w", fault="0x5"),
    )
    found = model_run(path)
    assert found["mismatches"] == []
    assert found["counts"]["requests"] == 6
    assert found["counts"]["messages"] == 1
    assert found["counts"]["fault_records_checked"] == 3


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 5, 8), (12, 2, 9)])
def test_bursts_of_faults_are_found_wherever_the_log_stands(tmp_path: Path, counts: tuple[int, ...]) -> None:
    bursts = [fault_burst(count, 0x100000 * (1 + number)) for number, count in enumerate(counts)]
    path = write(tmp_path / "t.jsonl", *started(False), *(line for burst in bursts for line in burst))
    found = model_run(path)
    assert found["mismatches"] == []
    assert found["counts"]["fault_records_checked"] == sum(min(count, 8) + 1 for count in counts)
    result = cosimulate("verilator", IommuParams(), JOB, seed=0, job_parameters={"path": str(path)})
    assert result.summary["replay"] == found


def test_wrong_record_of_a_later_burst_is_a_mismatch(tmp_path: Path) -> None:
    bursts = [*fault_burst(3, 0x100000), *fault_burst(2, 0x200000)]
    record = [line for line in bursts if line["ev"] == "frr"][1]
    record["lo"] = "0x201000"
    found = model_run(write(tmp_path / "t.jsonl", *started(False), *bursts))
    assert [one["what"] for one in found["mismatches"]] == ["fault record 0: address"]


def test_queue_goes_round_more_than_once(tmp_path: Path) -> None:
    queue = Queue(wide=False)
    lines: list[dict[str, Any]] = []
    for number in range(200):
        entry = 0x77003 + 0x1000 * (number & 7)
        lines.append({**MAP, "pa": hex(PTE + 40), "val": hex(entry)})
        lines += queue.ring(d.IOTLB_INV.pack(type=2, g=3, did=3, address=5))
        lines += mapped(0x5000, entry=entry)
    found = model_run(write(tmp_path / "t.jsonl", *started(False), *lines))
    assert found["mismatches"] == []
    assert found["counts"]["waits"] == 200


def test_lines_between_doorbell_and_wait_are_played(tmp_path: Path) -> None:
    queue = Queue(wide=False)
    bell, inval, wait = queue.ring(d.IOTLB_INV.pack(type=2, g=1))
    between = {**MAP, "pa": hex(PTE + 48), "val": "0x79003"}
    path = write(
        tmp_path / "t.jsonl", *started(False), bell, between, inval, *mapped(0x5000), wait,
        *mapped(0x6000, entry=0x79003),
    )  # fmt: skip
    found = model_run(path)
    assert found["mismatches"] == []
    assert found["counts"]["stores"] == 1
    assert found["counts"]["requests"] == 2


def test_wait_without_status_write_is_waited_for(tmp_path: Path) -> None:
    wait = d.WAIT.pack(type=5, interrupt=1)
    line = {"ev": "wait", "iflag": "0x1", "sw": "0x0", "fn": "0x0", "data": "0x0", "addr": "0x0"}
    path = write(
        tmp_path / "t.jsonl", *started(False), register(0x88, 16), {**line, "hi": "0x0", "lo": hex(wait)},
        *mapped(0x5000),
    )  # fmt: skip
    found = model_run(path)
    assert found["mismatches"] == []
    assert found["counts"]["waits"] == 1


def test_recording_that_checks_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one, or nothing is checked"):
        survey(write(tmp_path / "t.jsonl", *started(False)))
