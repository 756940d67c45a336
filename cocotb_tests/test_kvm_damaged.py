"""Damaged recordings: whatever is wrong with one, the command says so in its own words and with its own exit status.

1: model and recording part, with the place, what came before and both sides. 2: it cannot be used, in one line.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.kvm_replay.command import main

_DATA = Path(__file__).parent / "data" / "kvm"
_SMALL = ("6.12/fault_4k", "6.12/prefault", "6.12/fault_hugetlb_2m", "6.1/dirty_readonly_mix", "6.1/root_reload",
          "6.1/ksm")  # fmt: skip
_JUNK: tuple[Any, ...] = (None, True, -1, 1.5, [], {}, "", "zz", "f" * 16, 1 << 70, [[1]], "x" * 300, 0, "1000")
_CASES = 20
"""Damaged recordings of each kind; another thousand was tried by hand."""

Damage = Callable[[random.Random, list[bytes]], None]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from _paths(part, (*path, key))


def _edit(lines: list[bytes], at: int, change: Callable[[Any, Any], None], rng: random.Random) -> None:
    record = json.loads(lines[at])
    *outer, last = rng.choice(list(_paths(record)))
    inside = record
    for key in outer:
        inside = inside[key]
    change(inside, last)
    lines[at] = json.dumps(record).encode()


def _junk(rng: random.Random) -> Callable[[Any, Any], None]:
    value = rng.choice(_JUNK)
    return lambda inside, key: inside.__setitem__(key, value)


def _drop(rng: random.Random, lines: list[bytes]) -> None:
    del lines[rng.randrange(len(lines))]


def _swap(rng: random.Random, lines: list[bytes]) -> None:
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _repeat(rng: random.Random, lines: list[bytes]) -> None:
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))


def _field(rng: random.Random, lines: list[bytes]) -> None:
    _edit(lines, rng.randrange(len(lines)), _junk(rng), rng)


def _header(rng: random.Random, lines: list[bytes]) -> None:
    _edit(lines, 0, _junk(rng), rng)


def _missing(rng: random.Random, lines: list[bytes]) -> None:
    _edit(lines, rng.randrange(len(lines)), lambda inside, key: inside.__delitem__(key), rng)


def _bit(rng: random.Random, lines: list[bytes]) -> None:
    """One bit of an entry that changed, always a divergence."""
    at = rng.choice([number for number, line in enumerate(lines) if line.startswith(b'{"spte":{')])
    record = json.loads(lines[at])
    key = rng.choice(("old", "new"))
    record["spte"][key] = f"{int(record['spte'][key], 16) ^ 1 << rng.randrange(12):x}"
    lines[at] = json.dumps(record).encode()


_DAMAGES: dict[str, Damage] = {"drop": _drop, "swap": _swap, "repeat": _repeat, "field": _field, "header": _header,
                               "missing": _missing, "bit": _bit}  # fmt: skip


def _verdict(path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit status, with what must have been printed for it."""
    code = main([path])
    out, err = capsys.readouterr()
    if code == 2:
        assert not out
        assert err.startswith(f"{path}:")
        assert len(err.splitlines()) == 1
        assert len(err) < 500
    else:
        assert not err
        last = {0: "ok ", 1: "  model "}[code]
        assert out.splitlines()[-1].startswith(last), out
        for name in ("TypeError", "KeyError", "IndexError", "AttributeError"):
            assert name not in out, f"the model stumbled: {out}"
    return code


@pytest.mark.parametrize("kind", _DAMAGES)
def test_damaged_recording_is_told(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: Counter[int] = Counter()
    for case in range(_CASES):
        rng = random.Random(f"{kind} {case}")
        lines = gzip.decompress((_DATA / f"{rng.choice(_SMALL)}.jsonl.gz").read_bytes()).splitlines()
        _DAMAGES[kind](rng, lines)
        path = tmp_path / f"{kind}-{case}.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        codes[_verdict(path, capsys)] += 1
    least = {"header": 1, "bit": _CASES}.get(kind, _CASES // 3)
    assert codes[1] + codes[2] >= least, codes
    if kind == "bit":
        assert codes == {1: _CASES}


def test_damaged_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off, with flipped bytes, empty, binary, a directory."""
    good = (_DATA / "6.12" / "fault_hugetlb_2m.jsonl.gz").read_bytes()
    rng = random.Random(0)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x55
    damaged = (good[:-1], good[: len(good) // 2], good[:5], b"", bytes(flipped), rng.randbytes(999))
    for number, content in enumerate(damaged):
        path = tmp_path / f"{number}.jsonl.gz"
        path.write_bytes(content)
        assert _verdict(path, capsys) == 2
    assert _verdict(tmp_path, capsys) == 2


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"tdp_mmu":"Y"', b'"tdp_mmu":"N"', "header.kvm.tdp_mmu"),
        (b'"npt":"Y"', b'"npt":"0"', "header.kvm_amd.npt"),
        (b'"kvm_amd"', b'"kvm_intel"', "header.kvm_intel"),
        (b'"40 bits physical', b'"64 bits physical', "header.address_sizes"),
        (b'"nx_huge_pages_recovery_ratio":"60"', b'"nx_huge_pages_recovery_ratio":"many"', "header.kvm.nx_huge"),
    ],
)
def test_machine_that_is_not_modelled_is_refused(
    old: bytes, new: bytes, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = gzip.decompress((_DATA / "6.12" / "fault_hugetlb_2m.jsonl.gz").read_bytes())
    assert old in text
    path = tmp_path / "other.jsonl"
    path.write_bytes(text.replace(old, new, 1))
    assert main([path]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:1: {field}")


@pytest.mark.parametrize(
    ("release", "note"),
    [
        ("5.15.0-9-amd64", "Linux 5.15.0-9-amd64 is not known; the nearest is modelled, 6.1"),
        ("6.6.30", "modelled as Linux 6.6, which rests on facts.md, not on recordings"),
        ("6.14.2-arch1", "modelled as Linux 6.14, which rests on facts.md, not on recordings"),
        ("7.0.0-rc1", "Linux 7.0.0-rc1 is not known; the nearest is modelled, 6.18"),
    ],
)
def test_other_kernel_is_modelled_and_said_aloud(
    release: str, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = gzip.decompress((_DATA / "6.12" / "fault_hugetlb_2m.jsonl.gz").read_bytes())
    path = tmp_path / "other.jsonl"
    path.write_bytes(text.replace(b"6.12.117+deb12-amd64", release.encode(), 1))
    assert main([path]) in (0, 1)
    assert capsys.readouterr().out.splitlines()[0] == f"note     {path}: {note}"
