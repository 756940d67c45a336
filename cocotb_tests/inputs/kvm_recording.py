"""Reader of recordings of KVM's TDP MMU: gzip'd or plain JSON lines, one record a line; bad input is an `InputError`.

Numbers are hex strings without 0x, except small ones that JSON holds as integers. Every record becomes a
`KvmRecord` with a canonical name, the one that `pymodel.kvm` gives to its own events: `spte`, `page_fault`,
`call kvm_flush_remote_tlbs`, `ret kvm_tdp_mmu_map`, `op`, `end`, ...
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.vtd_trace import lines

__all__ = ["KvmHeader", "KvmRecord", "KvmRecording", "read_kvm_recording"]

_HEX = re.compile(r"[0-9a-fA-F]{1,16}").fullmatch
_LEVELS, _MANY = 5, 1 << 20
_LIMITS = {"n": _MANY, "npages": 1 << 28}
"""What is counted up to: a damaged number must not keep the replay busy for ever."""
_EVENT_TEXT = re.compile(r"gfn ([0-9a-f]+) l(\d)").search
_TEXT = frozenset(
    ("op", "fn", "name", "kind", "reason", "exit", "text", "change", "what", "value", "advice", "prot", "data", "mode",
     "note")
)  # fmt: skip
_EVENTS = {
    "kvm_mmu_get_page": "get_page",
    "kvm_mmu_prepare_zap_page": "prepare_zap_page",
    "kvm_mmu_zap_all_fast": "zap_all_fast",
}
_PAIRS = frozenset(("bits", "dirty"))
_NEEDED: dict[str, tuple[str, ...]] = {
    "spte": ("as_id", "gfn", "level", "old", "new"),
    "page_fault": ("addr", "err", "vcpu"),
    "fast_page_fault": ("addr", "old", "new", "spurious", "fixed"),
    "set_spte": ("gfn", "spte", "level"),
    "spte_requested": ("gfn", "pfn", "level"),
}
_NEEDED_CALL: dict[str, tuple[str, ...]] = {
    "kvm_mmu_notifier_invalidate_range_start": ("range_start", "range_end"),
    "kvm_mmu_notifier_invalidate_range_end": ("range_start", "range_end"),
    "kvm_mmu_notifier_change_pte": ("address",),
    "kvm_mmu_notifier_clear_flush_young": ("start", "end"),
    "kvm_mmu_notifier_clear_young": ("start", "end"),
    "kvm_mmu_notifier_test_young": ("address",),
}
"""Notifier calls are replayed from their arguments."""
_NEEDED_OP: dict[str, tuple[str, ...]] = {
    "memslot": ("change", "slot", "base_gfn", "npages", "hva", "flags"),
    "host_region": ("hva", "len", "kind"),
    "get_dirty_log": ("slot",),
    "clear_dirty_log": ("slot", "first", "bits"),
    "pre_fault": ("vcpu", "gpa", "size"),
    "enable_cap": ("cap", "arg"),
    "host_set": ("what", "value"),
    "create_vcpus": ("n",),
    "set_sregs": ("vcpu",),
    "host_mmap_fixed": ("hva", "len", "kind"),
    "guest_read": ("vcpu", "gpa", "n", "stride"),
}


@dataclass(frozen=True, slots=True)
class KvmHeader:
    """The first line."""

    scenario: str
    kernel: str
    nondeterministic: bool
    la57: bool
    address_bits: int
    kvm: dict[str, str]


@dataclass(frozen=True, slots=True)
class KvmRecord:
    """One line. `fields` holds integers for numbers, text for names, lists and objects as they stand."""

    line: int
    name: str
    fields: dict[str, Any]
    count: int = 1
    """`spte`: so many consecutive entries changed alike."""
    task: str = ""


@dataclass(frozen=True, slots=True)
class KvmRecording:
    """A whole recording."""

    path: Path
    header: KvmHeader
    records: list[KvmRecord]


def read_kvm_recording(path: Path) -> KvmRecording:
    """Read and check a recording. Raises `InputError`, one line, for anything that cannot be used."""
    header: KvmHeader | None = None
    records: list[KvmRecord] = []
    for number, line in lines(path):
        content = _object(path, number, line)
        if header is None:
            header = _header(path, number, content)
        else:
            records.append(_record(path, number, content))
    if header is None:
        raise InputError(path, None, "", "an empty file", "a recording that starts with a header")
    if not any(record.name == "op" for record in records):
        raise InputError(path, None, "", "no step at all", "a recording with op records")
    return KvmRecording(path, header, records)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(path, number, "", line.decode("utf-8", "replace"), f"a JSON object ({error})") from None
    if not isinstance(content, dict) or not content:
        raise InputError(path, number, "", content, "a JSON object with at least one key")
    return content


def _header(path: Path, number: int, content: dict[str, Any]) -> KvmHeader:
    if "header" not in content:
        raise InputError(path, number, "", next(iter(content)), "the key header in the first line")
    header = content["header"]
    if not isinstance(header, dict):
        raise InputError(path, number, "header", header, "an object")
    for name in ("scenario", "kernel", "address_sizes"):
        if not isinstance(header.get(name), str):
            raise InputError(path, number, f"header.{name}", header.get(name, ""), "a string")
    found = re.match(r"(\d+) bits physical", header["address_sizes"])
    if found is None:
        raise InputError(path, number, "header.address_sizes", header["address_sizes"], '"N bits physical, ..."')
    kvm = header.get("kvm", {})
    if not isinstance(kvm, dict):
        raise InputError(path, number, "header.kvm", kvm, "an object of module parameters")
    if re.match(r"\d+\.\d+", header["kernel"]) is None:
        raise InputError(path, number, "header.kernel", header["kernel"], "a release like 6.12.117")
    _check_machine(path, number, header, int(found.group(1)))
    return KvmHeader(
        header["scenario"],
        header["kernel"],
        bool(header.get("nondeterministic", False)),
        bool(header.get("la57", 0)),
        int(found.group(1)),
        {str(key): str(value) for key, value in kvm.items()},
    )


def _check_machine(path: Path, number: int, header: dict[str, Any], address_bits: int) -> None:
    """The records are those of a TDP MMU on AMD's nested paging: others would mean something else by the same names."""
    if not 32 <= address_bits <= 52:
        raise InputError(path, number, "header.address_sizes", header["address_sizes"], "32..52 bits physical")
    if "kvm_intel" in header:
        raise InputError(path, number, "header.kvm_intel", header["kvm_intel"], "a recording of kvm_amd")
    for where, name in (("kvm", "tdp_mmu"), ("kvm_amd", "npt")):
        module = header.get(where, {})
        value = module.get(name, "Y") if isinstance(module, dict) else module
        if value not in ("Y", "1", 1, True):
            raise InputError(path, number, f"header.{where}.{name}", value, "Y: no other MMU is modelled")
    ratio = header.get("kvm", {}).get("nx_huge_pages_recovery_ratio", "60")
    if not isinstance(ratio, str) or re.fullmatch(r"[0-9]{1,9}", ratio) is None:
        raise InputError(path, number, "header.kvm.nx_huge_pages_recovery_ratio", ratio, "a decimal number as a string")


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, str) and key not in _TEXT:
            if _HEX(value) is not None:
                value = int(value, 16)
        elif isinstance(value, dict):
            value = _numbers(value)
        result[key] = value
    return result


def _require(path: Path, number: int, where: str, fields: dict[str, Any], needed: tuple[str, ...]) -> None:
    for key in needed:
        if key not in fields:
            raise InputError(path, number, f"{where}.{key}", "", "this field")
        value = fields[key]
        if key in _TEXT:
            continue
        if key in _PAIRS:
            _pairs(path, number, f"{where}.{key}", value)
        elif type(value) is not int or not 0 <= value < 1 << 64:
            raise InputError(path, number, f"{where}.{key}", value, "a number, as hex string without 0x")
        elif value > _LIMITS.get(key, value):
            raise InputError(path, number, f"{where}.{key}", value, f"at most {_LIMITS[key]}")
        elif key == "level" and not 1 <= value <= _LEVELS:
            raise InputError(path, number, f"{where}.{key}", value, f"a level in 1..{_LEVELS}")


def _pairs(path: Path, number: int, where: str, value: Any) -> None:
    """Runs of pages: [first, count]."""
    good = isinstance(value, list) and all(
        isinstance(run, list) and len(run) == 2 and all(type(part) is int and 0 <= part <= _MANY for part in run)
        for run in value
    )
    if not good:
        raise InputError(path, number, where, value, "a list of runs [first page, count]")


def _record(path: Path, number: int, content: dict[str, Any]) -> KvmRecord:
    task = str(content.get("task", ""))
    for key in ("op", "end", "exit"):
        if key in content:
            fields = _numbers({k: v for k, v in content.items() if k not in ("task", "cpu")})
            if key == "op":
                op = content["op"]
                if not isinstance(op, str):
                    raise InputError(path, number, "op", op, "the name of a step")
                needed = _NEEDED_OP.get("guest_read" if op.startswith("guest_") else op, ())
                _require(path, number, "op", fields, needed)
            if key == "end":
                fields["end"] = str(content["end"])
                if "dirty" in fields:
                    _pairs(path, number, "end.dirty", fields["dirty"])
            return KvmRecord(number, key, fields, task=task)
    key = next(iter(content))
    value = content[key]
    if key == "npt":
        return KvmRecord(number, key, _snapshot(path, number, key, value or {"root": None}))
    if key == "host_pt":
        return KvmRecord(number, key, _snapshot(path, number, key, value))
    if not isinstance(value, dict):
        if key in _NEEDED or key in ("call", "callret", "event"):
            raise InputError(path, number, key, value, "an object")
        return KvmRecord(number, key, {"value": value}, task=task)
    if key in ("call", "callret"):
        if not isinstance(value.get("fn"), str):
            raise InputError(path, number, f"{key}.fn", value.get("fn", ""), "the name of a function")
        fields = _numbers({k: v for k, v in value.items() if k != "fn"})
        if key == "call":
            _require(path, number, key, fields, _NEEDED_CALL.get(value["fn"], ()))
        return KvmRecord(number, ("call " if key == "call" else "ret ") + value["fn"], fields, task=task)
    if key == "event":
        return _event(number, value, task)
    fields = _numbers(value)
    _require(path, number, key, fields, _NEEDED.get(key, ()))
    count: Any = content.get("n", value.get("n", 1))
    if key == "spte" and (type(count) is not int or not 1 <= count <= 1 << 20):
        raise InputError(path, number, "spte.n", count, "a number of entries")
    return KvmRecord(number, key, fields, int(count) if key == "spte" else 1, task)


def _event(number: int, value: dict[str, Any], task: str) -> KvmRecord:
    name = str(value.get("name", ""))
    canonical = _EVENTS.get(name)
    if canonical is None:
        return KvmRecord(number, "event " + name, value, task=task)
    fields: dict[str, Any] = {}
    found = _EVENT_TEXT(str(value.get("text", "")))
    if found is not None and canonical != "zap_all_fast":
        fields = {"gfn": int(found.group(1), 16), "level": int(found.group(2))}
    return KvmRecord(number, canonical, fields, task=task)


def _snapshot(path: Path, number: int, where: str, value: Any) -> dict[str, Any]:
    """host_pt and npt: runs become tuples of integers."""
    if not isinstance(value, dict):
        raise InputError(path, number, where, value, "an object")
    result = dict(value)
    for key in ("root", "empty"):
        if isinstance(value.get(key), str):
            result[key] = _hex(path, number, f"{where}.{key}", value[key])
    for key in ("set", "del"):
        runs = value.get(key, [])
        if not isinstance(runs, list):
            raise InputError(path, number, f"{where}.{key}", runs, "a list of runs")
        result[key] = list(_runs(path, number, f"{where}.{key}", runs, (2 if where == "npt" else 3) + (key == "set")))
    return result


def _runs(path: Path, number: int, where: str, runs: list[Any], length: int) -> Iterator[tuple[int, ...]]:
    """Runs are [slot, ] level, address, entries [, first value]."""
    for index, run in enumerate(runs):
        place = f"{where}[{index}]"
        if not isinstance(run, list) or len(run) != length + 1:
            raise InputError(path, number, place, run, f"a list of {length + 1} values")
        values = tuple(_hex(path, number, place, part) if isinstance(part, str) else part for part in run)
        if not all(type(value) is int and 0 <= value < 1 << 64 for value in values):
            raise InputError(path, number, place, run, "numbers of at most 64 bits")
        first = 1 if "host_pt" in where else 0
        if not 1 <= values[first] <= _LEVELS or not 1 <= values[first + 2] <= _MANY:
            raise InputError(path, number, place, run, f"a level in 1..{_LEVELS} and a count in 1..{_MANY}")
        yield values


def _hex(path: Path, number: int, where: str, text: str) -> int:
    if _HEX(text) is None:
        raise InputError(path, number, where, text, "a hex string of at most 64 bits, without 0x")
    return int(text, 16)
