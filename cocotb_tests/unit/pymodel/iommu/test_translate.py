"""Untimed translation: context structures of both modes, second stage, reasons."""

import pytest

from cocotb_tests.unit.pymodel.iommu.setting import CONTEXTS, ROOT, SID, context_entry, words
from pymodel.iommu import Outcome, Request, translate
from pymodel.memory import PhysMem, Ranges
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

TABLE, LEAF = 0x10000, 0x5000_0000
SCALABLE = ROOT | layout.RTADDR.pack(ttm=1)
DIRECTORY, PASIDS = 0x3000, 0x4000
PARAMS = IommuParams()


def legacy(entry: int, levels: int = 4) -> PhysMem:
    """A table of `levels` that maps IOVA 0 to LEAF below a context entry."""
    memory = PhysMem()
    memory.store(ROOT, CONTEXTS | 1)
    words(memory, CONTEXTS + 16 * SID, entry, 2)
    for level in range(levels - 1):
        memory.store(TABLE + 0x1000 * level, TABLE + 0x1000 * (level + 1) | 3)
    memory.store(TABLE + 0x1000 * (levels - 1), LEAF | 3)
    return memory


def ask(memory: PhysMem, iova: int = 0x123, write: bool = False, pasid: int | None = None, rtaddr: int = ROOT,
        params: IommuParams = PARAMS) -> Outcome:  # fmt: skip
    """One request of SID."""
    return translate(params, memory, rtaddr, Request(SID, pasid, iova, write))


@pytest.mark.parametrize(("levels", "aw"), [(3, 1), (4, 2), (5, 3)])
def test_depths(levels: int, aw: int) -> None:
    memory = legacy(context_entry(TABLE, aw=aw), levels)
    assert ask(memory) == (Reason.NONE, LEAF | 0x123, 0, True, True, False, False)
    assert ask(memory, 1 << (12 + 9 * levels)).reason is Reason.ADDRESS_BEYOND_WIDTH
    narrow = IommuParams(levels=tuple(depth for depth in (3, 4, 5) if depth != levels))
    assert ask(memory, params=narrow).reason is Reason.CONTEXT_INVALID


@pytest.mark.parametrize(("change", "reason"), [
    ({"p": 0}, Reason.CONTEXT_NOT_PRESENT),
    ({"tt": 1}, Reason.CONTEXT_INVALID),
    ({"tt": 3}, Reason.CONTEXT_INVALID),
    ({"aw": 4}, Reason.CONTEXT_INVALID),
    ({"table": 1 << 40}, Reason.CONTEXT_RESERVED),
    ({"tt": 2, "table": 1 << 40}, Reason.CONTEXT_RESERVED),
])  # fmt: skip
@pytest.mark.parametrize("fpd", [0, 1])
def test_legacy_context_reasons(change: dict[str, int], reason: Reason, fpd: int) -> None:
    fields: dict[str, int] = {"p": 1, "table": TABLE >> 12, "aw": 2, "did": 3, "fpd": fpd, **change}
    outcome = ask(legacy(layout.LEGACY_CONTEXT.pack(**fields)))
    assert (outcome.reason, outcome.recorded) == (reason, not fpd)


@pytest.mark.parametrize("bit", [4, 11, 48, 63, 64 + 7, 64 + 24, 64 + 63])
def test_reserved_bits_of_a_legacy_context_entry(bit: int) -> None:
    assert ask(legacy(context_entry(TABLE) | 1 << bit)).reason is Reason.CONTEXT_RESERVED


def test_pass_through() -> None:
    entry = layout.LEGACY_CONTEXT.pack(p=1, tt=2, aw=2, table=0xABC)
    assert ask(legacy(entry), 0x123_4567_89AB_C000) == (0, 0x123_4567_89AB_C000, 0, True, True, False, False)
    assert ask(legacy(entry), params=IommuParams(pass_through=False)).reason is Reason.CONTEXT_INVALID


def test_root_reasons() -> None:
    memory = legacy(context_entry(TABLE))
    assert ask(memory, rtaddr=0x9000).reason is Reason.ROOT_NOT_PRESENT
    memory.store(ROOT + 8, 1)
    assert ask(memory).reason is Reason.ROOT_RESERVED
    shut = PhysMem([(CONTEXTS, 0x100000)])
    assert ask(shut).reason is Reason.ROOT_ACCESS
    half = PhysMem([(0, CONTEXTS)])
    half.store(ROOT, CONTEXTS | 1)
    assert ask(half).reason is Reason.CONTEXT_ACCESS


def test_modes() -> None:
    memory = legacy(context_entry(TABLE))
    for mode, recorded in ((2, True), (3, False)):
        outcome = ask(memory, rtaddr=ROOT | layout.RTADDR.pack(ttm=mode))
        assert (outcome.reason, outcome.recorded) == (Reason.SM_BAD_MODE, recorded)
    assert ask(memory, rtaddr=SCALABLE, params=IommuParams(scalable=False)).reason is Reason.SM_BAD_MODE
    assert ask(memory, pasid=1).reason is Reason.SM_PASID_IN_LEGACY
    assert translate(PARAMS, memory, 0, Request(SID, 5, 0x77, True), enabled=False).address == 0x77


@pytest.mark.parametrize(("level", "entry", "read", "write"), [
    (3, 0, Reason.READ_DENIED, Reason.WRITE_DENIED),
    (1, 0x11003 | 1 << 62, Reason.ENTRY_RESERVED, Reason.ENTRY_RESERVED),
    (3, 0x11003 | 1 << 7, Reason.ENTRY_RESERVED, Reason.ENTRY_RESERVED),
    (1, 0x1003 | 1 << 7, Reason.ENTRY_RESERVED, Reason.ENTRY_RESERVED),
    (0, LEAF | 1 | 1 << 62, Reason.ENTRY_RESERVED, Reason.WRITE_DENIED),
    (0, LEAF | 3 | 1 << 48, Reason.ENTRY_RESERVED, Reason.ENTRY_RESERVED),
    (0, 0xFEE0_0003, Reason.INTERRUPT_ADDRESS, Reason.INTERRUPT_ADDRESS),
    (2, 1 << 47 | 3, Reason.TABLE_ACCESS, Reason.TABLE_ACCESS),
])  # fmt: skip
def test_second_stage_reasons(level: int, entry: int, read: Reason, write: Reason) -> None:
    memory = legacy(context_entry(TABLE))
    memory.ranges = Ranges([(0, 1 << 40)])
    memory.store(TABLE + 0x1000 * (3 - level), entry)
    assert ask(memory).reason is read
    assert ask(memory, write=True).reason is write


def test_snoop_bit_is_reserved_without_snoop_control() -> None:
    memory = legacy(context_entry(TABLE))
    memory.store(TABLE + 0x3000, LEAF | 0x803)
    assert ask(memory).snoop
    assert ask(memory, params=IommuParams(snoop_control=False)).reason is Reason.ENTRY_RESERVED
    assert ask(memory, params=IommuParams(leaf_snp_legal=False)).reason is Reason.ENTRY_RESERVED


def test_page_sizes_that_are_not_offered() -> None:
    memory = legacy(context_entry(TABLE))
    memory.store(TABLE + 0x1000, 0x4000_0083)
    assert ask(memory, 0x1234_5678)[:3] == (Reason.NONE, 0x5234_5678, 2)
    assert ask(memory, params=IommuParams(large_pages=1)).reason is Reason.ENTRY_RESERVED


def scalable(pasid: int = 0, **fields: int) -> PhysMem:
    """Scalable structures for one PASID around the table of `legacy`."""
    memory = legacy(0)
    words(memory, CONTEXTS + 32 * SID, layout.SCALABLE_CONTEXT.pack(p=1, paside=1, pasid_directory=3), 4)
    memory.store(DIRECTORY + 8 * (pasid >> 6), PASIDS | 1)
    entry = layout.PASID_ENTRY.pack(**{"p": 1, "aw": 2, "pgtt": 2, "table": TABLE >> 12, "did": 9, **fields})
    words(memory, PASIDS + 64 * (pasid & 63), entry, 8)
    return memory


def test_scalable_mode() -> None:
    memory = scalable(0x105, pgsnp=1)
    assert ask(memory, pasid=0x105, rtaddr=SCALABLE) == (0, LEAF | 0x123, 0, True, True, True, False)
    assert ask(memory, rtaddr=SCALABLE).reason is Reason.SM_DIRECTORY_NOT_PRESENT
    assert ask(memory, pasid=0x106, rtaddr=SCALABLE).reason is Reason.SM_PASID_NOT_PRESENT
    assert ask(memory, pasid=1 << 13, rtaddr=SCALABLE).reason is Reason.SM_PASID_TOO_LARGE
    assert ask(memory, 1 << 21, True, 0x105, SCALABLE).reason is Reason.SM_ENTRY_NOT_PRESENT
    assert ask(scalable(pgtt=4, pgsnp=1), 5, rtaddr=SCALABLE) == (0, 5, 0, True, True, True, False)
    assert ask(scalable(pgtt=3), rtaddr=SCALABLE).reason is Reason.SM_PASID_INVALID
    assert ask(scalable(aw=4), rtaddr=SCALABLE).reason is Reason.SM_PASID_INVALID
    outcome = ask(scalable(pgtt=1, fpd=1), rtaddr=SCALABLE)
    assert (outcome.reason, outcome.recorded) == (Reason.SM_PASID_INVALID, False)
    upper = Request(0x80, None, 0, False)
    assert translate(PARAMS, memory, SCALABLE, upper).reason is Reason.SM_ROOT_NOT_PRESENT


def test_scalable_context_reasons() -> None:
    memory = scalable()
    place = CONTEXTS + 32 * SID
    memory.store(place + 8, 1 << 19)
    assert ask(memory, rtaddr=SCALABLE).reason is Reason.SM_RID_PASID_TOO_LARGE
    memory.store(place + 8, 0)
    memory.store(place, memory.load(place) & ~8)
    assert ask(memory, pasid=0, rtaddr=SCALABLE).reason is Reason.SM_PASID_DISABLED
    memory.store(place, memory.load(place) | 0x20)
    assert ask(memory, rtaddr=SCALABLE).reason is Reason.SM_CONTEXT_RESERVED
