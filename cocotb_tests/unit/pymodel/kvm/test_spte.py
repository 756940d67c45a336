"""Entry formats: literal values as recorded from real kernels (facts K) and as spte.h lays them out (facts A2)."""

from dataclasses import replace

import pytest

from pymodel.kvm.spte import LARGE, WRITABLE, SpteFormat, ept, npt

_NPT = npt(suppress_ve_empty=False)
_NEW = npt(suppress_ve_empty=True)
_EPT = ept(suppress_ve_empty=False)
_EPT59 = ept(suppress_ve_empty=True, marker=59)


def test_recorded_values_of_npt() -> None:
    assert (_NPT.empty, _NPT.frozen) == (0, 0x5A0)
    assert (_NEW.empty, _NEW.frozen) == (0x8000000000000000, 0x80000000000005A0)
    assert _NPT.nonleaf(0x148982) == 0x148982827
    assert _NPT.leaf(0x1444DA, 1, 0, host_writable=True) == 0x1444DAE67
    assert _NPT.leaf(0x14A400, 2, 0, host_writable=True) == 0x14A400EE7
    assert _NPT.leaf(0x3738, 1, 0, host_writable=False) == 0x3738825
    assert _NPT.leaf(0x140E00, 2, 0, host_writable=False) == 0x140E008A5
    assert _NPT.leaf(0x149E00, 2, 0, host_writable=True, executable=False) == 0x8000000149E00EE7
    assert _NPT.leaf(0x149600, 2, 0, host_writable=True, prefetch=True) == 0x149600EC7
    assert _NPT.leaf(0x140E00, 2, 0, host_writable=False, prefetch=True) == 0x140E00885


def test_d_is_missing_over_what_looks_writable() -> None:
    assert _NPT.leaf(0x1490BB, 1, 0x8000040000027, host_writable=True) == 0x1490BBE27  # over an MMIO entry
    assert _NPT.leaf(0x149600, 2, 0x149600EC7, host_writable=True, prefetch=True) == 0x149600E87
    assert _NPT.leaf(0x14A400, 2, 0x1490B8827, host_writable=True) == 0x14A400EE7  # over a table


def test_recorded_mmio_entries() -> None:
    assert _NPT.mmio(0x40000, 2, 7) == 0x8000040000017
    assert _NPT.mmio(0x40003, 0x18, 7) == 0x80000400030C7
    assert _NPT.mmio_generation(0x8000040000057) == 0xA
    assert _NPT.is_mmio(0x8000040000017)
    assert not _NPT.is_mmio(0x1444DAE67)
    assert not _NPT.is_present(0x8000040000017)


@pytest.mark.parametrize("fmt", [_NPT, _EPT, _EPT59], ids=["npt", "ept", "ept59"])
def test_generation_survives_in_19_bits(fmt) -> None:  # type: ignore[no-untyped-def]
    for generation in (0, 1, 0xFF, 0x100, 0x1FF, 0x200, 0xFFFF, 0x10000, 0x7FFFF):
        entry = fmt.mmio(0x12345, generation, 7)
        assert fmt.mmio_generation(entry) == generation
        assert not fmt.is_present(entry)
        assert fmt.is_mmio(entry)


def test_ept_layout() -> None:
    leaf = _EPT.leaf(0x1234, 1, 0, host_writable=True)
    assert leaf == 0x1234000 | 0b111 | 0x70 | 0x300 | 1 << 11 | 1 << 57 | 1 << 58
    assert _EPT59.leaf(0x1234, 1, 0, host_writable=True) == leaf ^ (1 << 11 | 1 << 59) | 1 << 63
    assert _EPT59.nonleaf(0x55) == 0x55000 | 0b111 | 1 << 8 | 1 << 59 | 1 << 63
    assert _EPT59.mmio(1, 0, 7) & (1 << 63 | 0b111) == 0b110, "only MMIO entries are without bit 63"
    tracked = ept(suppress_ve_empty=False, ad_enabled=False)
    old = tracked.leaf(0x1234, 1, 0, host_writable=True)
    hidden = tracked.access_track(old)
    assert hidden & 0b111 == 0
    assert tracked.is_present(hidden)
    assert tracked.is_access_track(hidden)
    assert tracked.restore_access_track(hidden) == old & ~WRITABLE


def test_split_and_huge_are_inverse() -> None:
    huge = 0x8000000149E00EE7
    child = _NPT.split_child(huge, 1, 3, executable=True)
    assert child == 0x149E03E67
    assert _NPT.split_child(huge, 1, 3, executable=False) == 0x8000000149E03E67
    assert _NPT.huge_of(child, 2, executable=False) == huge
    giant = 0x140000000 | 0xEE7
    assert _NPT.split_child(giant, 2, 5, executable=False) == giant + (5 << 21)
    assert _NPT.split_child(giant, 2, 5, executable=False) & LARGE


def test_marker_must_be_known() -> None:
    with pytest.raises(ValueError, match="11 or 59"):
        npt(suppress_ve_empty=False, marker=12)


@pytest.mark.parametrize("marker", [11, 59])
def test_tracked_page_is_host_writable_at_most(marker: int) -> None:
    fmt = ept(suppress_ve_empty=True, marker=marker)
    full = fmt.leaf(5, 1, 0, host_writable=True)
    tracked = fmt.leaf(5, 1, 0, host_writable=True, tracked=True)
    assert full ^ tracked == WRITABLE | fmt.mmu_writable | fmt.dirty
    assert tracked & fmt.host_writable


def test_write_protect_only_scheme_keeps_a_and_d() -> None:
    plain, only = (_EPT.leaf(5, 1, 0, host_writable=True, protect_only=one) for one in (False, True))
    assert only ^ plain == 2 << 52
    assert _NPT.leaf(5, 1, 0, host_writable=True, protect_only=True) == 0x5E67


@pytest.mark.parametrize(
    ("entry", "volatile"),
    [(0x5E67, False), (0x5E47, True), (0x5E27, True), (0x5E65, True), (0x5825, False), (0x5805, True)],
)
def test_volatile_entries(entry: int, volatile: bool) -> None:
    """Missing A, missing D of a writable page, or W that the fast path may give back."""
    assert _NPT.is_volatile(entry) is volatile


@pytest.mark.parametrize("fmt", [npt(suppress_ve_empty=True), ept(suppress_ve_empty=True)], ids=lambda one: one.name)
def test_frozen_value_is_a_choice_and_none_means_a_live_entry(fmt: SpteFormat) -> None:
    """0x5a0 holds the A bit of NPT and of EPT; the later 0x498 holds neither A nor D of either (facts A2)."""
    later = replace(fmt, frozen_bits=0x498)
    assert (fmt.frozen, later.frozen) == (1 << 63 | 0x5A0, 1 << 63 | 0x498)
    assert fmt.frozen & fmt.accessed
    assert not later.frozen & (later.accessed | later.dirty)
    for one in (fmt, later):
        assert not one.is_present(one.frozen)
        assert not one.frozen & 0b111
        assert not one.is_mmio(one.frozen)


def test_ept_without_hardware_a_and_d_keeps_them_in_software() -> None:
    bare = ept(suppress_ve_empty=True, ad_enabled=False)
    kept = ept(suppress_ve_empty=True, ad_enabled=False, software_ad=True)
    assert kept.leaf(0x1234, 1, 0, host_writable=True) == bare.leaf(0x1234, 1, 0, host_writable=True) | 0x300
    assert kept.leaf(0x1234, 1, 0, host_writable=False) == bare.leaf(0x1234, 1, 0, host_writable=False) | 0x100
    hidden = kept.access_track(kept.leaf(0x1234, 1, 0, host_writable=True))
    assert hidden & 0x307 == 0x200
    assert (kept.is_accessed(hidden), kept.is_accessed(hidden | 0x100)) == (False, True)
    assert kept.leaf(0x1234, 1, 0, host_writable=True, prefetch=True) == hidden
    assert kept.nonleaf(0x55) == bare.nonleaf(0x55)
