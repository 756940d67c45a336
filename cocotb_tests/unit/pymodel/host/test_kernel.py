"""Which kernel's host is modelled."""

from dataclasses import fields

import pytest

from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HOST_6_13, HostKernel, kernel_for


@pytest.mark.parametrize(
    ("number", "kernel"),
    [((5, 10), HOST_6_1), ((6, 1), HOST_6_1), ((6, 7), HOST_6_7), ((6, 12), HOST_6_12), ((6, 13), HOST_6_13)],
)
def test_named_kernels_are_those_of_their_number(number: tuple[int, int], kernel: HostKernel) -> None:
    assert kernel_for(number) is kernel


@pytest.mark.parametrize(
    ("release", "changed"),
    [
        ((6, 2), {"nested_hugetlb_unmap", "mprotect_upgrades_all", "unmerge_unshares"}),
        ((6, 3), {"migrates_in_batches"}),
        ((6, 4), {"split_keeps_dirty"}),
        ((6, 5), set()),
        ((6, 6), {"saved_dirty"}),
        ((6, 7), {"mremap_aligns"}),
        ((6, 8), set()),
        ((6, 9), {"pageout_ages", "hugetlb_reserves_again"}),
        ((6, 10), {"has_change_pte", "huge_parts_stay"}),
        ((6, 11), {"swapin_writable", "reclaim_announces_split"}),
        ((6, 12), {"mprotect_notifies_level"}),
        ((6, 13), {"huge_zero_replaced"}),
        ((6, 14), set()),
        ((7, 0), set()),
    ],
)
def test_each_release_changes_its_own_fields_only(release: tuple[int, int], changed: set[str]) -> None:
    before = (release[0], release[1] - 1) if release[1] else (6, 99)
    old, new = kernel_for(before), kernel_for(release)
    differing = {field.name for field in fields(HostKernel) if getattr(old, field.name) != getattr(new, field.name)}
    assert differing - {"name"} == changed
