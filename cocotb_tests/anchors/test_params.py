"""Parameters: the capabilities they announce, word for word, and what they refuse."""

from typing import Any

import pytest

from pymodel.spec.params import PRESETS, Architecture, IommuParams


@pytest.mark.parametrize(
    ("params", "cap", "ecap"),
    [
        # 39/48/57 bits, MGAW 57, records at 0x200, 2M and 1G, 8 records, MAMV 18; scalable, 20-bit PASID
        (IommuParams(), 0x00D2_078C_2038_0E06, 0x0001_4998_0000_00C3),
        (IommuParams(levels=(4,)), 0x00D2_078C_202F_0406, 0x0001_4998_0000_00C3),
        (IommuParams(levels=(3,), large_pages=0), 0x00D2_0780_2026_0206, 0x0001_4998_0000_00C3),
        (IommuParams(large_pages=1, fault_records=1), 0x00D2_0084_2038_0E06, 0x0001_4998_0000_00C3),
        (IommuParams(np_cache=True, max_address_mask=9), 0x00C9_078C_2038_0E86, 0x0001_4998_0000_00C3),
        (IommuParams(scalable=False), 0x00D2_078C_2038_0E06, 0xC3),
        (IommuParams(scalable=False, snoop_control=False, pass_through=False), 0x00D2_078C_2038_0E06, 0x3),
    ],
)
def test_capability_words(params: IommuParams, cap: int, ecap: int) -> None:
    assert f"{params.cap:#018x}" == f"{cap:#018x}"
    assert f"{params.ecap:#018x}" == f"{ecap:#018x}"


def test_defaults_of_the_knobs() -> None:
    """K1-K11 of the fact sheet; a changed default changes what the project claims."""
    params = IommuParams()
    assert params.inval_scope is Architecture.VTD
    assert params.psc_scope is Architecture.VTD
    assert (params.np_cache, params.leaf_snp_legal, params.prq_overflow_success) == (False, True, True)
    assert (params.rewalk_on_perm, params.pr_implicit_inv) == (False, False)
    assert (params.drain_always, params.walk_drain) == (True, True)
    assert (params.ats_pregrant_dirty, params.inv_reorder) == (False, False)


def test_snp_needs_snoop_control() -> None:
    assert IommuParams().snp_legal
    assert not IommuParams(snoop_control=False).snp_legal
    assert not IommuParams(leaf_snp_legal=False).snp_legal


def test_widths() -> None:
    assert [IommuParams(levels=levels).iova_bits for levels in ((3,), (3, 4), (4, 5))] == [39, 48, 57]
    assert IommuParams().max_levels == 5


def test_presets() -> None:
    assert set(PRESETS) == {"small", "default", "large"}
    assert PRESETS["default"] == IommuParams()
    assert PRESETS["small"].iotlb_entries == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iotlb_entries": 0}, r"iotlb_entries must be in 1\.\.1024, not 0"),
        ({"iotlb_entries": 24}, r"iotlb_entries must be a power of two, not 24"),
        ({"iotlb_entries": 2048}, r"iotlb_entries must be in 1\.\.1024, not 2048"),
        ({"psc_entries": 512}, r"psc_entries must be in 1\.\.256, not 512"),
        ({"context_entries": 3}, r"context_entries must be a power of two, not 3"),
        ({"walk_slots": 65}, r"walk_slots must be in 1\.\.64, not 65"),
        ({"walk_slots": True}, r"walk_slots must be in 1\.\.64, not True"),
        ({"pending_requests": 4}, r"pending_requests must be at least walk_slots \(8\), not 4"),
        ({"tag_bits": 17}, r"tag_bits must be in 1\.\.16, not 17"),
        ({"haw": 35}, r"haw must be in 36\.\.52, not 35"),
        ({"haw": 48.0}, r"haw must be in 36\.\.52, not 48\.0"),
        ({"large_pages": 3}, r"large_pages must be in 0\.\.2, not 3"),
        ({"max_address_mask": 53}, r"max_address_mask must be in 0\.\.52, not 53"),
        ({"fault_records": 129}, r"fault_records must be in 1\.\.128, not 129"),
        ({"levels": ()}, r"levels must be a rising, non-empty subset of \(3, 4, 5\), not \(\)"),
        ({"levels": (4, 3)}, r"levels must be a rising.* not \(4, 3\)"),
        ({"levels": (2, 3)}, r"levels must be a rising.* not \(2, 3\)"),
        ({"scalable": 1}, r"scalable must be true or false, not 1"),
        ({"np_cache": "no"}, r"np_cache must be true or false, not 'no'"),
    ],
)
def test_misuse(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IommuParams(**values)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        IommuParams(32)  # type: ignore[call-arg]
