"""VT-d second-stage paging entries, which are EPT entries to a CPU (facts A1, A2).

Level 0 is the level that holds only 4 KiB leaves; level 1 entries span 2 MiB, level 2 1 GiB, level 3 512 GiB,
level 4 256 TiB. Vendors call the tables PT, PD, PDPT, PML4, PML5.
"""

from pymodel.spec.fields import Field, Format

__all__ = [
    "ENTRIES_PER_LINE",
    "ENTRIES_PER_TABLE",
    "INTERRUPT_FIRST",
    "INTERRUPT_LAST",
    "LEAVES",
    "LEVEL_NAMES",
    "LINE_BYTES",
    "PAGE_BYTES",
    "SS_LEAF_1G",
    "SS_LEAF_2M",
    "SS_LEAF_4K",
    "SS_TABLE",
    "SS_TABLE_TOP",
    "index",
    "level_shift",
]

PAGE_BYTES = 4096
ENTRIES_PER_TABLE = 512
LINE_BYTES = 64
ENTRIES_PER_LINE = 8
LEVEL_NAMES = ("PTE", "PDE", "PDPE", "PML4E", "PML5E")

INTERRUPT_FIRST = 0xFEE0_0000
"""First byte of the interrupt address range (never translated, never a legal result)."""
INTERRUPT_LAST = 0xFEEF_FFFF
"""Last byte of the interrupt address range."""

_SOURCE = "facts A1: VirtualBox iommu-intel.h, QEMU masks, Linux generic_pt/fmt/vtdss.h"


def _common(leaf: bool) -> tuple[Field, ...]:
    kind = (
        Field("emt", 3, 3, "memory type, only looked at with ECAP.MTS and EMTE", ignored=True),
        Field("ipat", 6, 1, "ignore guest PAT", ignored=True),
    )
    return (
        Field("r", 0, 1, "readable"),
        Field("w", 1, 1, "writable"),
        Field("x", 2, 1, "executable, only with second-stage execute", ignored=True),
        *(kind if leaf else (Field("ignored_6_3", 3, 4, ignored=True),)),
        Field("a", 8, 1, "accessed, only with SSADE", ignored=True),
        Field("ignored_61_52", 52, 10, "software; KVM's present marker may sit at 59", ignored=True),
        Field("ignored_63", 63, 1, "software; EPT suppress-#VE", ignored=True),
    )


SS_TABLE_TOP = Format(
    "SS_TABLE_TOP",
    64,
    *_common(leaf=False),
    Field("ignored_10_9", 9, 2, ignored=True),
    Field("address", 12, 40, "next table, bits 51:12; bits at and above HAW are reserved"),
    source=_SOURCE + "; bit 7 is reserved in PML4E and PML5E",
)

SS_TABLE = Format(
    "SS_TABLE",
    64,
    *_common(leaf=False),
    Field("ps", 7, 1, "page size: 0 in a pointer; 1 makes the entry a leaf"),
    Field("ignored_10_9", 9, 2, ignored=True),
    Field("address", 12, 40, "next table, bits 51:12; bits at and above HAW are reserved"),
    source=_SOURCE + "; PDPE and PDE with PS=0",
)


def _leaf(name: str, level: int) -> Format:
    shift = 12 + 9 * level
    ps = Field("ps", 7, 1, "1") if level else Field("ignored_7", 7, 1, ignored=True)
    return Format(
        name,
        64,
        *_common(leaf=True),
        ps,
        Field("d", 9, 1, "dirty, only with SSADE", ignored=True),
        Field("ignored_10", 10, 1, ignored=True),
        Field("snp", 11, 1, "force snoop, legal only with ECAP.SC (K4), else reserved"),
        Field("address", shift, 52 - shift, f"page address, bits 51:{shift}; bits at and above HAW are reserved"),
        source=_SOURCE,
    )


SS_LEAF_4K = _leaf("SS_LEAF_4K", 0)
SS_LEAF_2M = _leaf("SS_LEAF_2M", 1)
SS_LEAF_1G = _leaf("SS_LEAF_1G", 2)
LEAVES = (SS_LEAF_4K, SS_LEAF_2M, SS_LEAF_1G)
"""Leaf format by level: 4 KiB, 2 MiB, 1 GiB."""


def level_shift(level: int) -> int:
    """log2 of the bytes that one entry of a table at `level` spans."""
    return 12 + 9 * level


def index(address: int, level: int) -> int:
    """Index into the table at `level` for a byte address."""
    return (address >> (12 + 9 * level)) & 511
