"""What the decoders read out of literal entries; every number here was written by hand from the formats."""

from typing import Any

import pytest

from cocotb_tests.unit.hdl.pysim import combinational
from hdl.formats.context import ContextDecoder, ContextStage
from hdl.formats.second_stage import EntryDecoder
from pymodel.spec.params import IommuParams

# Flags: P present, R reserved bits set, L leaf, t good pointer (may be cached), g good leaf (may be cached).
ENTRIES = [
    # level, entry, flags
    (0, 0x0000_1234_5678_9003, "PLg"),
    (0, 0x0000_1234_5678_9001, "PLg"),
    (0, 0x0000_1234_5678_9002, "PLg"),
    (0, 0x0000_0000_0000_0000, "L"),
    (0, 0x0000_1234_5678_9004, "L"),  # executable only: not present here
    (0, 0x0000_1234_5678_9083, "PLg"),  # bit 7 is ignored at level 0
    (0, 0x0000_1234_5678_9803, "PLg"),  # SNP
    (0, 0x0000_1234_5678_977F, "PLg"),  # every ignored bit below 12
    (0, 0xBFF0_0000_0000_1003, "PLg"),  # software bits
    (0, 0x4000_0000_0000_1003, "PRL"),  # bit 62 is none of them
    (0, 0x0001_0000_0000_1003, "PRL"),  # bit 48 = HAW
    (0, 0x0008_0000_0000_1003, "PRL"),
    (0, 0x0000_0000_FEDF_F003, "PLg"),
    (0, 0x0000_0000_FEE0_0003, "PL"),  # interrupt range
    (0, 0x0000_0000_FEEF_F003, "PL"),
    (0, 0x0000_0000_FEF0_0003, "PLg"),
    (0, 0x0000_0001_FEE0_0003, "PLg"),
    (1, 0x0000_0000_0020_0083, "PLg"),
    (1, 0x0000_0000_0020_1083, "PRL"),  # a 2 MiB page in the middle of one
    (1, 0x0000_0000_0030_0083, "PRL"),
    (1, 0x0000_0000_0020_0883, "PLg"),
    (1, 0x0000_0000_0020_1003, "Pt"),
    (1, 0x0000_0000_0020_1803, "PR"),  # bit 11 is reserved in a pointer
    (1, 0x0000_0000_0020_177B, "Pt"),
    (1, 0x0000_0000_0020_1001, "Pt"),
    (1, 0x0001_0000_0020_1003, "PR"),
    (1, 0x0000_0000_0000_0080, "L"),
    (1, 0x0000_0000_FEC0_0083, "PLg"),
    (1, 0x0000_0000_FEE0_0083, "PL"),  # its first half is the interrupt range
    (1, 0x0000_0000_FF00_0083, "PLg"),
    (2, 0x0000_0000_4000_0083, "PLg"),
    (2, 0x0000_0000_6000_0083, "PRL"),
    (2, 0x0000_0000_4000_1083, "PRL"),
    (2, 0x0000_0000_8000_0083, "PLg"),
    (2, 0x0000_0000_C000_0083, "PL"),  # contains the interrupt range
    (2, 0x0000_0000_4000_1003, "Pt"),
    (3, 0x0000_0000_0000_5003, "Pt"),
    (3, 0x0000_0000_0000_5083, "PR"),  # no 512 GiB pages
    (3, 0x0000_0000_0000_5803, "PR"),
    (3, 0x0000_0000_FEE0_0003, "Pt"),  # a table may lie anywhere
    (4, 0xBFF0_0000_0000_5007, "Pt"),
    (4, 0x4000_0000_0000_5007, "PR"),
    (4, 0x0000_0000_0000_5083, "PR"),
    (4, 0x0000_0000_0000_0000, ""),
]
VARIANTS: list[tuple[dict[str, Any], int, int, str]] = [
    ({"large_pages": 1}, 2, 0x0000_0000_4000_0083, "PR"),
    ({"large_pages": 1}, 1, 0x0000_0000_0020_0083, "PLg"),
    ({"large_pages": 0}, 1, 0x0000_0000_0020_0083, "PR"),
    ({"large_pages": 0}, 1, 0x0000_0000_0020_1003, "Pt"),
    ({"large_pages": 0}, 0, 0x0000_0000_0020_1083, "PLg"),
    ({"haw": 40}, 0, 0x0000_0100_0000_1003, "PRL"),
    ({"haw": 40}, 0, 0x0000_0080_0000_1003, "PLg"),
    ({"haw": 40}, 3, 0x0000_0100_0000_1003, "PR"),
    ({"haw": 52}, 0, 0x000F_FFFF_FFFF_F003, "PLg"),
    ({"haw": 52}, 1, 0x000F_FFFF_FFFF_F003, "Pt"),
    ({"leaf_snp_legal": False}, 0, 0x0000_0000_0000_1803, "PRL"),
    ({"leaf_snp_legal": False}, 1, 0x0000_0000_0020_0883, "PRL"),
    ({"snoop_control": False}, 2, 0x0000_0000_4000_0883, "PRL"),
    ({"snoop_control": False}, 0, 0x0000_0000_0000_1003, "PLg"),
    ({"levels": (3,)}, 2, 0x0000_0000_4000_0083, "PLg"),
]


def flags_of(ctx: Any, dut: EntryDecoder) -> str:
    """What the decoder says; RESERVED only where it has a meaning."""
    present = ctx.get(dut.present)
    found = "P" * present + "R" * (present and ctx.get(dut.reserved)) + "L" * ctx.get(dut.leaf)
    return found + "t" * ctx.get(dut.good_pointer) + "g" * ctx.get(dut.good_leaf)


def test_entry_literal_words() -> None:
    """W8, W9 on 48 address bits with every page size."""
    dut = EntryDecoder(IommuParams())

    async def bench(ctx: Any) -> None:
        ctx.set(dut.r, 1)
        ctx.set(dut.w, 1)
        for level, entry, flags in ENTRIES:
            ctx.set(dut.level, level)
            ctx.set(dut.entry, entry)
            assert flags_of(ctx, dut) == flags, f"level {level}, {entry:#018x}"

    combinational(dut, bench)


@pytest.mark.parametrize(("changes", "level", "entry", "flags"), VARIANTS)
def test_entry_parameters(changes: dict[str, Any], level: int, entry: int, flags: str) -> None:
    """Page sizes, address width and snoop control decide which bits are reserved."""
    dut = EntryDecoder(IommuParams(**changes))

    async def bench(ctx: Any) -> None:
        for port, value in ((dut.r, 1), (dut.w, 1), (dut.level, level), (dut.entry, entry)):
            ctx.set(port, value)
        assert flags_of(ctx, dut) == flags

    combinational(dut, bench)


@pytest.mark.parametrize(
    ("entry", "above", "sector", "flags"),
    [
        (0x0000_1234_5678_9003, 0b11, (1, 1, 0, 0x1_2345_6789), "PLg"),
        (0x0000_1234_5678_9803, 0b01, (1, 0, 1, 0x1_2345_6789), "PLg"),
        (0x0000_1234_5678_9001, 0b11, (1, 0, 0, 0x1_2345_6789), "PLg"),
        (0x0000_1234_5678_9001, 0b10, (0, 0, 0, 0x1_2345_6789), "PL"),  # nothing left: not to be cached
        (0x0000_1234_5678_9002, 0b10, (0, 1, 0, 0x1_2345_6789), "PLg"),
    ],
)
def test_entry_permissions_are_anded(entry: int, above: int, sector: tuple[int, ...], flags: str) -> None:
    """r' and w' of the sector, SNP and the frame."""
    dut = EntryDecoder(IommuParams())

    async def bench(ctx: Any) -> None:
        for port, value in ((dut.r, above & 1), (dut.w, above >> 1), (dut.level, 0), (dut.entry, entry)):
            ctx.set(port, value)
        found = ctx.get(dut.sector)
        assert (int(found.r), int(found.w), int(found.snp), int(found.frame)) == sector
        assert flags_of(ctx, dut) == flags

    combinational(dut, bench)


ROOT, CONTEXT, DIRECTORY, PASID = ContextStage
S = {"scalable": 1}
NOISE = 0xAAAA_AAAA_AAAA_AAAA  # in every word of the line that must not matter
DONE = {"reason": 0, "done": 1}
NEXT = {"reason": 0, "done": 0}

Words = dict[int, int]
CONTEXTS: list[tuple[ContextStage, dict[str, int], Words, dict[str, int]]] = [
    # stage, inputs, 64-bit words of the line by position, expected outputs
    (ROOT, {"sid": 0x0210}, {4: 0x5001, 5: 0}, {**NEXT, "table": 5}),
    (ROOT, {"sid": 0x0710}, {6: 0x0000_FFFF_FFFF_F001, 7: 0}, {**NEXT, "table": 0xF_FFFF_FFFF}),
    (ROOT, {"sid": 0x0010}, {0: 0, 1: 0}, {"reason": 0x01}),
    (ROOT, {"sid": 0x0010}, {0: 0x5000, 1: 0xFF}, {"reason": 0x01}),
    (ROOT, {"sid": 0x0010}, {0: 0x5003, 1: 0}, {"reason": 0x0A}),
    (ROOT, {"sid": 0x0010}, {0: 0x5001, 1: 1}, {"reason": 0x0A}),
    (ROOT, {"sid": 0x0010}, {0: 0x0001_0000_0000_5001, 1: 0}, {"reason": 0x0A}),
    (ROOT, {"sid": 0x0010, "error": 1}, {0: 0x5001, 1: 0}, {"reason": 0x08, "fpd_out": 0}),
    (ROOT, {**S, "sid": 0x027F}, {4: 0x5001}, {**NEXT, "table": 5}),
    (ROOT, {**S, "sid": 0x0280}, {5: 0x6001}, {**NEXT, "table": 6}),
    (ROOT, {**S, "sid": 0x0280}, {5: 0x6000}, {"reason": 0x39}),
    (ROOT, {**S, "sid": 0x0200}, {4: 0x6003}, {"reason": 0x3A}),
    (ROOT, {**S, "sid": 0x0200, "error": 1}, {4: 0x6001}, {"reason": 0x38}),
    (CONTEXT, {"sid": 0x0002}, {4: 0x9001, 5: 0x12_3402},
     {**DONE, "pass_through": 0, "did": 0x1234, "depth": 4, "table_": 9, "fpd": 0, "pgsnp": 0}),
    (CONTEXT, {"sid": 0x0003}, {6: 0x9003, 7: 0x12_3479}, {**DONE, "depth": 3, "fpd": 1, "fpd_out": 1}),
    (CONTEXT, {"sid": 0x0000}, {0: 0x9001, 1: 0x3}, {**DONE, "depth": 5, "did": 0}),
    (CONTEXT, {}, {0: 0x9009, 1: 0xFF02}, {**DONE, "pass_through": 1, "did": 0xFF, "depth": 0, "table_": 0}),
    (CONTEXT, {}, {0: 0x9005, 1: 0x2}, {"reason": 0x03}),
    (CONTEXT, {}, {0: 0x900D, 1: 0x2}, {"reason": 0x03}),
    (CONTEXT, {}, {0: 0x9001, 1: 0x0}, {"reason": 0x03}),
    (CONTEXT, {}, {0: 0x9001, 1: 0x4}, {"reason": 0x03}),
    (CONTEXT, {}, {0: 0x9009, 1: 0x0}, {"reason": 0x03}),
    (CONTEXT, {}, {0: 0x9000, 1: 0x2}, {"reason": 0x02, "fpd_out": 0}),
    (CONTEXT, {}, {0: 0x9002, 1: 0x2}, {"reason": 0x02, "fpd_out": 1}),
    (CONTEXT, {}, {0: 0x9011, 1: 0x2}, {"reason": 0x0B}),
    (CONTEXT, {}, {0: 0x0001_0000_0000_9001, 1: 0x2}, {"reason": 0x0B}),
    (CONTEXT, {}, {0: 0x0001_0000_0000_9009, 1: 0x2}, {"reason": 0x0B}),
    (CONTEXT, {}, {0: 0x9001, 1: 0x82}, {"reason": 0x0B}),
    (CONTEXT, {}, {0: 0x9001, 1: 0x100_0002}, {"reason": 0x0B}),
    (CONTEXT, {"error": 1}, {0: 0x9003, 1: 0x2}, {"reason": 0x09, "fpd_out": 0}),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0x55}, {0: 0xA00D, 1: 0x77, 2: 0, 3: 0},
     {**NEXT, "table": 0xA, "pasid_out": 0x55}),
    (CONTEXT, {**S, "sid": 1}, {4: 0xA013, 5: 0x10_0123, 6: 0, 7: 0},
     {**NEXT, "table": 0xA, "pasid_out": 0x123, "fpd_out": 1}),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0x55}, {0: 0xA001, 1: 0, 2: 0, 3: 0}, {"reason": 0x45}),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0x2000}, {0: 0xA009, 1: 0, 2: 0, 3: 0}, {"reason": 0x46}),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0x1FFF}, {0: 0xA009, 1: 0, 2: 0, 3: 0}, NEXT),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0x2000}, {0: 0xA209, 1: 0, 2: 0, 3: 0}, NEXT),
    (CONTEXT, {**S, "pasid_valid": 1, "key_pasid": 0xF_FFFF}, {0: 0xAE09, 1: 0, 2: 0, 3: 0}, NEXT),
    (CONTEXT, S, {0: 0xA001, 1: 0x2000, 2: 0, 3: 0}, {"reason": 0x48}),
    (CONTEXT, S, {0: 0xA000, 1: 0, 2: 0, 3: 0}, {"reason": 0x41}),
    (CONTEXT, S, {0: 0xA021, 1: 0, 2: 0, 3: 0}, {"reason": 0x42}),
    (CONTEXT, S, {0: 0xA001, 1: 0x20_0000, 2: 0, 3: 0}, {"reason": 0x42}),
    (CONTEXT, S, {0: 0xA001, 1: 0, 2: 1, 3: 0}, {"reason": 0x42}),
    (CONTEXT, {**S, "error": 1}, {0: 0xA003, 1: 0, 2: 0, 3: 0}, {"reason": 0x40, "fpd_out": 0}),
    (DIRECTORY, {**S, "pasid": 0x0C5}, {3: 0xB001}, {**NEXT, "table": 0xB, "pasid_out": 0x0C5, "fpd_out": 0}),
    (DIRECTORY, {**S, "pasid": 0x3F}, {0: 0xB003}, {**NEXT, "fpd_out": 1}),
    (DIRECTORY, {**S, "pasid": 0x3F, "fpd": 1}, {0: 0xB001}, {**NEXT, "fpd_out": 1}),
    (DIRECTORY, S, {0: 0xB000}, {"reason": 0x51}),
    (DIRECTORY, S, {0: 0xB005}, {"reason": 0x52}),
    (DIRECTORY, S, {0: 0x0001_0000_0000_B001}, {"reason": 0x52}),
    (DIRECTORY, {**S, "fpd": 1, "error": 1}, {0: 0xB001}, {"reason": 0x50, "fpd_out": 1}),
    (PASID, {**S, "pasid": 5}, {0: 0xC089, 1: 0x0100_0077, 2: NOISE, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0},
     {**DONE, "pass_through": 0, "did": 0x77, "depth": 4, "table_": 0xC, "pgsnp": 1, "fpd": 0}),
    (PASID, {**S, "fpd": 1}, {0: 0xC2A5, 1: 0xFFFF_FFFF_FE80_0077, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0},
     {**DONE, "depth": 3, "fpd": 1, "fpd_out": 1, "pgsnp": 0}),
    (PASID, S, {0: 0xC101, 1: 0x77, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0},
     {**DONE, "pass_through": 1, "did": 0x77, "depth": 0, "table_": 0}),
    (PASID, S, {0: 0xC049, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5B}),
    (PASID, S, {0: 0xC0C9, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5B}),
    (PASID, S, {0: 0xC081, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5B}),
    (PASID, S, {0: 0xC489, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5A}),
    (PASID, S, {0: 0xC089, 1: 0x1_0000, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5A}),
    (PASID, S, {0: 0xC089, 1: 0, 2: 0, 3: 1, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x5A}),
    (PASID, S, {0: 0xC089, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 1 << 63}, {"reason": 0x5A}),
    (PASID, S, {0: 0xC08A, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x59, "fpd_out": 1}),
    (PASID, {**S, "error": 1}, {0: 0xC089, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}, {"reason": 0x58}),
]  # fmt: skip


def check_context(params: IommuParams, cases: list[Any]) -> None:
    """Drive each case and compare the outputs that it names."""
    dut = ContextDecoder(params)

    async def bench(ctx: Any) -> None:
        for stage, inputs, words, expected in cases:
            line = sum(words.get(position, NOISE) << 64 * position for position in range(8))
            ctx.set(dut.stage, stage)
            ctx.set(dut.line, line)
            for name in ("scalable", "error", "pasid", "fpd"):
                ctx.set(getattr(dut, name), inputs.get(name, 0))
            key = {"sid": inputs.get("sid", 0), "pasid_valid": inputs.get("pasid_valid", 0)}
            ctx.set(dut.key, {**key, "pasid": inputs.get("key_pasid", 0)})
            context = ctx.get(dut.context)
            names = ("reason", "table", "pasid_out", "fpd_out")
            found = {name: ctx.get(getattr(dut, name)) for name in names}
            found["done"] = int(ctx.get(dut.done) and not found["reason"])
            found |= {name: int(context[name]) for name in ("pass_through", "did", "depth", "fpd", "pgsnp")}
            found["table_"] = int(context.table)
            assert {name: found[name] for name in expected} == expected, f"{stage} {inputs} {words}"

    combinational(dut, bench)


def test_context_literal_lines() -> None:
    """W3, W5, W6: every stage, reason and field, with noise in the words that belong to others."""
    check_context(IommuParams(), CONTEXTS)


def test_context_parameters() -> None:
    """Depths that are not offered and a missing pass-through are invalid; HAW decides what is reserved."""
    invalid, pasid_rest = {"reason": 0x03}, dict.fromkeys(range(1, 8), 0)
    check_context(
        IommuParams(levels=(4,), pass_through=False, haw=39),
        [
            (CONTEXT, {}, {0: 0x9001, 1: 0x1}, invalid),
            (CONTEXT, {}, {0: 0x9001, 1: 0x3}, invalid),
            (CONTEXT, {}, {0: 0x9009, 1: 0x2}, invalid),
            (CONTEXT, {}, {0: 0x0000_0080_0000_9001, 1: 0x2}, {"reason": 0x0B}),
            (CONTEXT, {}, {0: 0x0000_0040_0000_9001, 1: 0x2}, {**DONE, "table_": 0x400_0009}),
            (PASID, S, {0: 0xC101, **pasid_rest}, {"reason": 0x5B}),
            (PASID, S, {0: 0xC085, **pasid_rest}, {"reason": 0x5B}),
            (PASID, S, {0: 0xC089, **pasid_rest}, {**DONE, "depth": 4}),
        ],
    )
