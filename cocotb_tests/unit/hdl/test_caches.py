"""IOTLB, paging-structure caches, context cache and fault log against slow implementations, cycle by cycle.

The stimulus keeps what the walker guarantees: a fill has a valid sector, a range is aligned to its size.
"""

import random
from typing import Any

import pytest

from cocotb_tests.unit.hdl.pysim import clocked, refused
from cocotb_tests.unit.hdl.reference import Drop, Line, SlowContexts, SlowFaults, SlowIotlb, SlowPointers
from hdl.context import ContextCache
from hdl.fault import FaultLog
from hdl.iotlb import Iotlb
from hdl.walk_cache import WalkCache
from pymodel.spec.params import Architecture, IommuParams

CYCLES = 2500
DIDS = (1, 2, 0x8001)
ALL_PAGES = (1 << 52) - 1


def small(**changes: Any) -> IommuParams:
    """A design that simulates fast."""
    sizes = {"iotlb_entries": 4, "psc_entries": 4, "context_entries": 4, "haw": 40}
    return IommuParams(**{**sizes, "walk_slots": 1, "pending_requests": 1, **changes})


def address(rng: random.Random, bits: int) -> int:
    """An address near few others: small differences at every table level, rarely high bits."""
    value = sum(rng.choice((0, 0, 1, 7, 8, 9)) << 12 + 9 * level for level in range((bits - 12) // 9))
    return (value | rng.getrandbits(12)) & ((1 << bits) - 1)


def wanted(rng: random.Random, lines: list[Line | None], size: int, bits: int) -> tuple[int, int]:
    """Domain and address of a lookup, half of the time in a cached line, whose sectors have `size` bytes."""
    line = rng.choice(lines)
    if line is None or rng.random() < 0.5:
        return rng.choice(DIDS), address(rng, bits)
    size = 4096 * 512 ** line.key[1] if len(line.key) == 3 else size
    return line.key[0], line.first + rng.randrange(8 * size)


def page_drop(rng: random.Random, bits: int) -> tuple[Drop, dict[str, int]]:
    """A page-selective invalidation and its operands for the RTL."""
    order = rng.choice((0, 0, 1, 3, 4, 9, 12, 18, 27, 36))
    page = address(rng, bits) >> 12 >> order << order
    if rng.random() < 0.03:
        page |= 1 << 51  # beyond every table: hits nothing
    hint = rng.random() < 0.3
    drop = Drop("page", rng.choice(DIDS), page << 12, (page + (1 << order) << 12) - 1, hint)
    mask = (1 << order) - 1
    operands = {"by_page": 1, "page": page | rng.getrandbits(52) & mask, "care": ALL_PAGES & ~mask}
    return drop, {**operands, "did": drop.did, "keep_pointers": int(hint)}


def iotlb_drop(rng: random.Random, bits: int) -> tuple[Drop, dict[str, int]]:
    """Any IOTLB invalidation, or none."""
    chance = rng.random()
    noise = {"did": rng.choice(DIDS), "page": rng.getrandbits(52), "care": rng.getrandbits(52)}
    if chance < 0.72:
        return Drop(), {**noise, "everything": int(rng.random() < 0.5), "by_did": int(rng.random() < 0.5)}
    if chance < 0.74:
        return Drop("everything"), {"iotlb": 1, "everything": 1, **noise}
    if chance < 0.78:
        return Drop("did", noise["did"]), {"iotlb": 1, "by_did": 1, **noise}
    drop, operands = page_drop(rng, bits)
    return drop, {"iotlb": 1, **operands}


def sectors(rng: random.Random, frame_bits: int) -> dict[int, dict[str, int]]:
    """Sectors of a fill, at least one."""
    chosen = rng.sample(range(8), rng.choice((1, 2, 4, 8)))
    return {
        number: {
            "r": rng.getrandbits(1), "w": 1, "snp": rng.getrandbits(1), "frame": rng.getrandbits(frame_bits),
        }
        for number in chosen
    }  # fmt: skip


def set_sectors(ctx: Any, dut: Any, chosen: dict[int, dict[str, int]]) -> None:
    """Drive the sectors of a fill."""
    ctx.set(dut.fill_valid, sum(1 << number for number in chosen))
    for number, sector in chosen.items():
        ctx.set(dut.fill_sectors[number], sector)


def fields(view: Any) -> dict[str, int]:
    """A struct constant as a dictionary."""
    return {name: int(view[name]) for name, _ in view.shape()}


@pytest.mark.parametrize("scope", list(Architecture))
@pytest.mark.parametrize(("entries", "large_pages"), [(4, 2), (1, 2), (4, 1), (2, 0)])
def test_iotlb_equals_a_dictionary(entries: int, large_pages: int, scope: Architecture) -> None:
    """T1, T2, T4, T5, I6: hits, sectors, places, evictions, under random fills and invalidations."""
    params = small(iotlb_entries=entries, large_pages=large_pages, inval_scope=scope, levels=(3, 4))
    dut, rng = Iotlb(params), random.Random(f"{entries} {large_pages} {scope}")
    slow = SlowIotlb(entries, scope is Architecture.AMD)
    seen = {"hit": 0, "evicted": 0, "replaced": 0, "dropped": 0}

    async def bench(ctx: Any) -> None:
        for _ in range(CYCLES):
            did, iova = wanted(rng, slow.lines, 0, 48)
            ctx.set(dut.did, did)
            ctx.set(dut.page, iova >> 12)
            found = slow.lookup(did, iova)
            assert ctx.get(dut.hit) == (found is not None)
            looked = None
            if found is not None:
                seen["hit"] += 1
                assert (ctx.get(dut.index), ctx.get(dut.level)) == found[:2]
                assert fields(ctx.get(dut.sector)) == found[2]
                looked = found[0] if rng.random() < 0.7 else None
            ctx.set(dut.use, looked is not None)
            filled = None
            again = rng.choice(slow.lines)
            if again is not None and rng.random() < 0.3:
                line = Line(again.key, again.first, sectors(rng, 28))
            else:
                level = rng.randint(0, large_pages)
                line = slow.line(rng.choice(DIDS), level, address(rng, 48), sectors(rng, 28))
            fills = rng.random() < 0.3
            ctx.set(dut.fill, fills)
            if fills:
                ctx.set(dut.fill_did, line.key[0])
                ctx.set(dut.fill_level, line.key[1])
                junk = rng.getrandbits(9 * line.key[1])  # bits below the line do not matter
                ctx.set(dut.fill_page, line.first >> 15 | junk)
                set_sectors(ctx, dut, line.sectors)
                place, evicts = slow.place(line.key)
                assert (ctx.get(dut.fill_index), ctx.get(dut.evicted)) == (place, evicts)
                seen["evicted"] += evicts
                seen["replaced"] += slow.lines[place] is not None and not evicts
                filled = (place, line)
            drop, operands = iotlb_drop(rng, 48)
            ctx.set(dut.apply, operands)
            before = sum(len(line.sectors) for line in slow.lines if line is not None)
            await ctx.tick()
            slow.end(looked, None, drop)
            seen["dropped"] += before - sum(len(line.sectors) for line in slow.lines if line is not None)
            slow.end(None, filled, Drop())

    clocked(dut, bench)
    assert min(seen.values()) > 10, seen


@pytest.mark.parametrize("scope", list(Architecture))
@pytest.mark.parametrize(("level", "entries"), [(0, 4), (1, 2), (2, 1), (3, 4)])
def test_walk_cache_equals_a_dictionary(level: int, entries: int, scope: Architecture) -> None:
    """T1, T3 (one level), T4, T5, I6 with IH, for each level of pointers."""
    params = small(psc_entries=entries, psc_scope=scope)
    dut, rng = WalkCache(params, level), random.Random(f"{level} {entries} {scope}")
    slow = SlowPointers(entries, level, scope is Architecture.AMD)
    seen = {"hit": 0, "evicted": 0, "dropped": 0}

    async def bench(ctx: Any) -> None:
        for _ in range(CYCLES):
            did, iova = wanted(rng, slow.lines, slow.size, 57)
            ctx.set(dut.did, did)
            ctx.set(dut.page, iova >> 12)
            found = slow.lookup(did, iova)
            assert ctx.get(dut.hit) == (found is not None)
            looked = None
            if found is not None:
                seen["hit"] += 1
                assert (ctx.get(dut.index), fields(ctx.get(dut.sector))) == found
                looked = found[0] if rng.random() < 0.7 else None
            ctx.set(dut.use, looked is not None)
            filled = None
            line = slow.line(rng.choice(DIDS), address(rng, 57), sectors(rng, 28))
            fills = rng.random() < 0.3
            ctx.set(dut.fill, fills)
            if fills:
                ctx.set(dut.fill_did, line.key[0])
                ctx.set(dut.fill_page, line.key[1] >> 15 | rng.getrandbits(9 * (level + 1)))
                set_sectors(ctx, dut, line.sectors)
                place, evicts = slow.place(line.key)
                assert (ctx.get(dut.fill_index), ctx.get(dut.evicted)) == (place, evicts)
                seen["evicted"] += evicts
                filled = (place, line)
            drop, operands = iotlb_drop(rng, 57)
            ctx.set(dut.apply, operands)
            before = sum(len(line.sectors) for line in slow.lines if line is not None)
            await ctx.tick()
            slow.end(looked, None, drop)
            seen["dropped"] += before - sum(len(line.sectors) for line in slow.lines if line is not None)
            slow.end(None, filled, Drop())

    clocked(dut, bench)
    assert min(seen.values()) > 10, seen


@pytest.mark.parametrize("level", [-1, 3, 4])
def test_walk_cache_wrong_level(level: int) -> None:
    """There is no cache for the top level of the deepest table, nor for others that do not exist."""
    refused(lambda: WalkCache(small(levels=(3, 4)), level), rf"^level must be in 0\.\.2, not {level}$")


FUNCTION_BITS = (0, 0b100, 0b110, 0b111)


def context_drop(rng: random.Random) -> tuple[Drop, dict[str, int]]:
    """Any context or PASID cache invalidation, or none."""
    did, sid, pasid = rng.choice(DIDS), rng.randrange(16), rng.randrange(3)
    functions = rng.choice(FUNCTION_BITS)
    operands = {"did": did, "sid": sid, "pasid": pasid, "sid_care": 0xFFFF & ~functions}
    kind = rng.choice(("", "", "", "", "", "", "everything", "did", "sid", "sid", "pasid", "pasid"))
    if not kind:
        return Drop(), {**operands, "everything": 1, "iotlb": 1}
    name = kind if kind == "everything" else f"by_{kind}"
    return Drop(kind, did, sid=sid, functions=functions, pasid=pasid), {**operands, "context": 1, name: 1}


@pytest.mark.parametrize("entries", [1, 2, 8])
def test_context_cache_equals_a_dictionary(entries: int) -> None:
    """T1, T4, T5, I6: keys with and without PASID, and every way to select what is dropped."""
    dut, rng = ContextCache(small(context_entries=entries)), random.Random(entries)
    slow = SlowContexts(entries)
    seen = {"hit": 0, "evicted": 0, "dropped": 0, "replaced": 0}

    def key() -> tuple[int, int, int]:
        valid = rng.getrandbits(1)
        return rng.randrange(10 if entries > 2 else 3), valid, rng.randrange(2) * valid

    async def bench(ctx: Any) -> None:
        for _ in range(CYCLES):
            asked = key()
            ctx.set(dut.key, dict(zip(("sid", "pasid_valid", "pasid"), asked, strict=True)))
            found = slow.lookup(asked)
            assert ctx.get(dut.hit) == (found is not None)
            looked = None
            if found is not None:
                seen["hit"] += 1
                assert fields(ctx.get(dut.context)) == found[1][2]
                looked = found[0] if rng.random() < 0.7 else None
            ctx.set(dut.use, looked is not None)
            filled = None
            ctx.set(dut.fill, 0)
            if rng.random() < 0.4:
                fill_key, pasid = key(), rng.randrange(3)
                value = {
                    "pass_through": rng.getrandbits(1), "did": rng.choice(DIDS), "depth": rng.randint(3, 5),
                    "table": rng.getrandbits(28), "fpd": rng.getrandbits(1), "pgsnp": rng.getrandbits(1),
                }  # fmt: skip
                ctx.set(dut.fill, 1)
                ctx.set(dut.fill_key, dict(zip(("sid", "pasid_valid", "pasid"), fill_key, strict=True)))
                ctx.set(dut.fill_pasid, pasid)
                ctx.set(dut.fill_context, value)
                place, evicts = slow.place(fill_key)
                assert (ctx.get(dut.fill_index), ctx.get(dut.evicted)) == (place, evicts)
                seen["evicted"] += evicts
                seen["replaced"] += slow.lines[place] is not None and not evicts
                filled = (place, Line(fill_key, 0, {0: (pasid, value["did"], value)}))
            drop, operands = context_drop(rng)
            ctx.set(dut.apply, operands)
            before = sum(line is not None for line in slow.lines)
            await ctx.tick()
            slow.end(looked, None, drop)
            seen["dropped"] += before - sum(line is not None for line in slow.lines)
            slow.end(None, filled, Drop())

    clocked(dut, bench)
    assert min(seen.values()) > 10, seen


@pytest.mark.parametrize("records", [1, 3, 8])
def test_fault_log_equals_a_list(records: int) -> None:
    """M4, R2: two faults a cycle, overflow, oldest index, and software that clears in the same cycle."""
    dut, rng = FaultLog(small(fault_records=records)), random.Random(records)
    slow = SlowFaults(records)
    seen = {"written": 0, "two": 0, "overflow": 0, "full and cleared": 0}

    def fault() -> dict[str, int]:
        return {
            "reason": rng.randrange(1, 256), "sid": rng.getrandbits(16), "pasid_valid": rng.getrandbits(1),
            "pasid": rng.getrandbits(20), "page": rng.getrandbits(52), "read": rng.getrandbits(1),
        }  # fmt: skip

    async def bench(ctx: Any) -> None:
        for cycle in range(CYCLES):
            busy = 0.7 if cycle // 100 % 2 else 0.15
            faults = []
            for name in ("first", "second"):
                strikes, record = rng.random() < busy, fault()
                ctx.set(getattr(dut, name), strikes)
                ctx.set(getattr(dut, f"{name}_record"), record)
                faults += [record] * strikes
            index, clears, clears_overflow = rng.randrange(records), rng.random() < 0.3, rng.random() < 0.2
            ctx.set(dut.read_index, index)
            ctx.set(dut.clear, clears)
            ctx.set(dut.clear_overflow, clears_overflow)
            word = ctx.get(dut.read_data)
            assert word >> 127 == slow.valid[index]
            if slow.records[index] is not None:
                known = slow.records[index]
                assert word & (1 << 127) - 1 == (
                    known["page"] << 12 | known["sid"] << 64 | known["pasid_valid"] << 95
                    | known["reason"] << 96 | known["pasid"] << 104 | known["read"] << 126
                )  # fmt: skip
            assert ctx.get(dut.overflow) == slow.overflow
            assert ctx.get(dut.pending) == any(slow.valid)
            if any(slow.valid):
                assert ctx.get(dut.index) == slow.first
            recorded = ctx.get(dut.recorded)
            seen["full and cleared"] += slow.overflow and clears_overflow
            await ctx.tick()
            written = slow.end(faults, index if clears else None, clears_overflow)
            assert recorded == written
            seen["written"] += written
            seen["two"] += written == 2
            seen["overflow"] += slow.overflow

    clocked(dut, bench)
    if records == 1:
        assert seen.pop("two") == 0
    assert min(seen.values()) > 10, seen
