"""Context walks, their reasons and the context cache (W5..W7, L2.5)."""

import pytest

from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams

from .bench import CONTEXT_TABLE, DIRECTORY, PASID_TABLE, ROOT_TABLE, RW, Bench

R = Reason


def asked(bench: Bench, mode: int, pasid: int | None = None, sid: int = 0) -> int:
    """Reason of one request."""
    bench.enable(mode)
    reason = bench.ask(0x1000, pasid=pasid, sid=sid).reason
    bench.idle(2)
    return reason


def recorded(bench: Bench) -> int:
    """How many fault records were written."""
    return sum(seen["faults_recorded"] for seen in bench.log)


@pytest.mark.parametrize(
    ("change", "params", "reason"),
    [
        ({"p": 0}, {}, R.CONTEXT_NOT_PRESENT),
        ({"table": 1 << 48}, {}, R.CONTEXT_RESERVED),
        ({"table": 1 << 52}, {"haw": 52}, R.CONTEXT_RESERVED),
        ({"tt": 2, "table": 1 << 48}, {}, R.CONTEXT_RESERVED),
        ({"aw": 0}, {}, R.CONTEXT_INVALID),
        ({"aw": 3}, {"levels": (3, 4)}, R.CONTEXT_INVALID),
        ({"aw": 7, "tt": 2}, {}, R.CONTEXT_INVALID),
        ({"tt": 1}, {}, R.CONTEXT_INVALID),
        ({"tt": 3}, {}, R.CONTEXT_INVALID),
        ({"tt": 2}, {"pass_through": False}, R.CONTEXT_INVALID),
        ({"tt": 2}, {}, 0),
        ({"tt": 2, "table": 5 << 12}, {}, 0),
        ({"ignored_70_67": 15}, {}, R.READ_DENIED),
    ],
)
def test_legacy_context(change: dict, params: dict, reason: int) -> None:
    """W6, CONTEXT in legacy mode."""
    bench = Bench(IommuParams(**params))
    bench.legacy(**change)
    assert asked(bench, 0) == reason
    assert recorded(bench) == int(reason != 0)


@pytest.mark.parametrize("bit", [4, 11, 71, 88, 127])
def test_legacy_context_reserved_bits(bit: int) -> None:
    """W6: bits that no field names."""
    bench = Bench()
    bench.legacy()
    bench.memory[CONTEXT_TABLE >> 6] |= 1 << bit
    assert asked(bench, 0) == R.CONTEXT_RESERVED


@pytest.mark.parametrize(
    ("mode", "sid", "value", "reason"),
    [
        (0, 0, 0, R.ROOT_NOT_PRESENT),
        (0, 0, CONTEXT_TABLE | 3, R.ROOT_RESERVED),
        (0, 0, 1 << 64 | CONTEXT_TABLE | 1, R.ROOT_RESERVED),
        (0, 0, 1 << 48 | 1, R.ROOT_RESERVED),
        (0, 0, 1 << 63 | 1, R.ROOT_RESERVED),
        (1, 0, 0, R.SM_ROOT_NOT_PRESENT),
        (1, 0x80, CONTEXT_TABLE | 1, R.SM_ROOT_NOT_PRESENT),
        (1, 0, CONTEXT_TABLE << 64 | 1 << 64, R.SM_ROOT_NOT_PRESENT),
        (1, 0x80, CONTEXT_TABLE << 64 | 1 << 64, R.SM_CONTEXT_NOT_PRESENT),
        (1, 0, CONTEXT_TABLE | 1 | 1 << 64 | 8 << 64, R.SM_CONTEXT_NOT_PRESENT),
        (1, 0, CONTEXT_TABLE | 9, R.SM_ROOT_RESERVED),
        (1, 0x80, CONTEXT_TABLE << 64 | 9 << 64, R.SM_ROOT_RESERVED),
    ],
)
def test_roots(mode: int, sid: int, value: int, reason: int) -> None:
    """W6, ROOT: only the half that is used counts in scalable mode."""
    bench = Bench()
    bench.store(ROOT_TABLE, value, 16)
    assert asked(bench, mode, sid=sid) == reason


@pytest.mark.parametrize(
    ("pasid", "parts", "params", "reason"),
    [
        (None, {"context": {"p": 0}}, {}, R.SM_CONTEXT_NOT_PRESENT),
        (None, {"context": {"pasid_directory": 1 << 36}}, {}, R.SM_CONTEXT_RESERVED),
        (1, {"context": {"paside": 0}}, {}, R.SM_PASID_DISABLED),
        (None, {"context": {"paside": 0}}, {}, R.SM_ENTRY_NOT_PRESENT),
        (1 << 13, {"context": {"pdts": 0}}, {}, R.SM_PASID_TOO_LARGE),
        ((1 << 13) - 1, {"context": {"pdts": 0}}, {}, R.SM_ENTRY_NOT_PRESENT),
        (None, {"context": {"pdts": 0, "rid_pasid": 1 << 13}}, {}, R.SM_RID_PASID_TOO_LARGE),
        (None, {"directory": {"p": 0}}, {}, R.SM_DIRECTORY_NOT_PRESENT),
        (None, {"directory": {"table": 1 << 36}}, {}, R.SM_DIRECTORY_RESERVED),
        (None, {"p": 0}, {}, R.SM_PASID_NOT_PRESENT),
        (None, {"table": 1 << 36}, {}, R.SM_PASID_RESERVED),
        (None, {"pgtt": 1}, {}, R.SM_PASID_INVALID),
        (None, {"pgtt": 3}, {}, R.SM_PASID_INVALID),
        (None, {"pgtt": 4}, {"pass_through": False}, R.SM_PASID_INVALID),
        (None, {"pgtt": 4, "aw": 0}, {}, 0),
        (None, {"aw": 0}, {}, R.SM_PASID_INVALID),
        (None, {"aw": 1}, {"levels": (4,)}, R.SM_PASID_INVALID),
        (5, {"first_stage": 7, "pwsnp": 1, "ssee": 1}, {}, R.SM_ENTRY_NOT_PRESENT),
    ],
)
def test_scalable(pasid: int | None, parts: dict, params: dict, reason: int) -> None:
    """W6, CONTEXT to PASID in scalable mode."""
    bench = Bench(IommuParams(**params))
    bench.scalable(pasid=pasid or 0, **parts)
    assert asked(bench, 1, pasid) == reason
    assert recorded(bench) == int(reason != 0)


@pytest.mark.parametrize(
    ("mode", "address", "reason"),
    [
        (0, ROOT_TABLE, R.ROOT_ACCESS),
        (0, CONTEXT_TABLE, R.CONTEXT_ACCESS),
        (1, ROOT_TABLE, R.SM_ROOT_ACCESS),
        (1, CONTEXT_TABLE, R.SM_CONTEXT_ACCESS),
        (1, DIRECTORY, R.SM_DIRECTORY_ACCESS),
        (1, PASID_TABLE, R.SM_PASID_ACCESS),
    ],
)
def test_access_errors(mode: int, address: int, reason: int) -> None:
    """W5."""
    bench = Bench()
    bench.scalable() if mode else bench.legacy()
    bench.bad_lines = {address >> 6}
    assert asked(bench, mode) == reason
    assert recorded(bench) == 1


@pytest.mark.parametrize(
    ("parts", "records"),
    [
        ({"context": {"fpd": 1}}, 0),
        ({"directory": {"fpd": 1}}, 0),
        ({"fpd": 1}, 0),
        ({"context": {"fpd": 1, "p": 0}}, 0),
        ({"context": {"fpd": 1}, "directory": {"p": 0}}, 0),
        ({"fpd": 1, "p": 0}, 0),
        ({"p": 0}, 1),
        ({}, 1),
    ],
)
def test_fpd(parts: dict, records: int) -> None:
    """W6, C3: FPD of any structure read, for its own faults and for page faults."""
    bench = Bench()
    bench.scalable(**parts)
    assert asked(bench, 1) != 0
    assert recorded(bench) == records


def test_fpd_before_an_access_error() -> None:
    """W6: the entry that cannot be read has none, the ones before it count."""
    bench = Bench()
    bench.scalable(context={"fpd": 1})
    bench.bad_lines = {DIRECTORY >> 6}
    assert asked(bench, 1) == R.SM_DIRECTORY_ACCESS
    assert recorded(bench) == 0


def test_pasid_addresses_and_rid_pasid() -> None:
    """W3, W6: directory by pasid >> 6, table by pasid & 63; RID_PASID stands in."""
    bench = Bench()
    bench.scalable(sid=0x85, pasid=0x1_2345, context={"rid_pasid": 0x1_2345})
    bench.map(0x1000, 0x9000 | RW)
    assert asked(bench, 1, sid=0x85) == 0
    lines = [line for _, _, line in bench.reads[:4]]
    assert lines == [ROOT_TABLE >> 6, (CONTEXT_TABLE + 32 * 5) >> 6, (DIRECTORY + 8 * (0x1_2345 >> 6)) >> 6,
                     (PASID_TABLE + 64 * 5) >> 6]  # fmt: skip
    assert asked(bench, 1, pasid=0x1_2345, sid=0x85) == 0
    walks = [seen for seen in bench.log if seen["lookup"] == Lookup.CONTEXT_WALK]
    assert len(walks) == 2, "with and without PASID are two entries"


def test_context_merge_and_replay() -> None:
    """L2.5, W7, L1: waiters are looked up again in the order of their entries."""
    bench = Bench()
    bench.legacy()
    bench.map(0x1000, 0x9000 | RW)
    bench.enable()
    for tag in range(3):
        bench.submit(tag, 0x1000)
    bench.idle(50)
    kinds = [(seen["lookup"], seen["lookup_replay"]) for seen in bench.log if seen["lookup"]]
    assert kinds == [(Lookup.CONTEXT_WALK, 0), (Lookup.CONTEXT_MERGE, 0), (Lookup.CONTEXT_MERGE, 0),
                     (Lookup.WALK, 1), (Lookup.MERGE, 1), (Lookup.MERGE, 1)]  # fmt: skip
    assert [answer.reason for answer in bench.answers] == [0, 0, 0]


def test_context_cache_replacement() -> None:
    """T1, T4, T5."""
    bench = Bench(IommuParams(context_entries=2))
    for sid in range(3):
        bench.legacy(sid=sid, tt=2)
    bench.enable()
    for sid in (0, 1, 0, 2, 0):
        bench.ask(0x1000, sid=sid)
    fills = [seen for seen in bench.log if seen["context_fill"]]
    assert [(seen["context_fill_index"], seen["context_evicted"]) for seen in fills] == [
        (0, 0),
        (1, 0),
        (1, 1),
    ]
