"""What differs between kernels in the primary MMU: one field a difference (recordings of 6.1 and 6.12; mm/*.c)."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

__all__ = ["HOST_6_1", "HOST_6_7", "HOST_6_12", "HOST_6_13", "HostKernel", "kernel_for"]


@dataclass(frozen=True, slots=True)
class HostKernel:
    """One kernel's choices; fields are read by the operation that they change."""

    name: str
    has_change_pte: bool
    """set_pte_at_notify calls change_pte (before 6.10, facts C2)."""
    nested_hugetlb_unmap: bool
    """Unmapping hugetlb pages calls the notifiers itself with UNMAP, inside the caller's range (before 6.2)."""
    pageout_ages: bool
    """MADV_PAGEOUT asks whether a page is young before it takes it (before 6.9)."""
    mprotect_upgrades_all: bool
    """mprotect makes every exclusive page writable at once (6.2+); before, only small dirty ones."""
    split_keeps_dirty: bool
    """The parts of a dirty 2M entry are dirty (6.4+); before, only the page is marked."""
    mprotect_notifies_level: int
    """mprotect calls the notifiers from the first populated span of this level on: 2 (2M), or 3 (1G, 6.12+)."""
    saved_dirty: bool
    """Write protection moves D to bit 58 (6.6+, shadow stacks)."""
    swapin_writable: bool
    """A read of a swapped page that no other process has maps it writable (6.11+)."""
    unmerge_unshares: bool
    """Taking a page out of KSM is an unsharing fault (6.2+); before, a write fault."""
    huge_zero_replaced: bool
    """A write to the huge zero page gets a huge page (6.13+); before, it is split (facts K)."""
    migrates_in_batches: bool
    """migrate_pages_batch (6.3+): what was unmapped is not mapped again between the attempts to move it."""
    mremap_aligns: bool
    """mremap starts at the table before its range where nothing else lies there (6.7+, try_realign_addr)."""
    huge_parts_stay: bool
    """A 2M page that is mapped as 512 small ones is taken whole by MADV_COLD, PAGEOUT, FREE and reclaim (6.10+);
    before, it is split. Migration splits one of which a part is unmapped (6.10+)."""
    reclaim_announces_split: bool
    """Reclaim of a 2M page splits its entries between calls of its own (before 6.11: split_huge_pmd_address)."""
    hugetlb_reserves_again: bool
    """A private hugetlb page that its owner drops (MADV_DONTNEED) is reserved for its next touch (6.9+)."""


HOST_6_1 = HostKernel(
    name="6.1",
    has_change_pte=True,
    nested_hugetlb_unmap=True,
    pageout_ages=True,
    mprotect_upgrades_all=False,
    split_keeps_dirty=False,
    mprotect_notifies_level=2,
    saved_dirty=False,
    swapin_writable=False,
    unmerge_unshares=False,
    huge_zero_replaced=False,
    migrates_in_batches=False,
    mremap_aligns=False,
    huge_parts_stay=False,
    reclaim_announces_split=True,
    hugetlb_reserves_again=False,
)

_CHANGES: tuple[tuple[tuple[int, int], dict[str, Any]], ...] = (
    ((6, 2), {"nested_hugetlb_unmap": False, "mprotect_upgrades_all": True, "unmerge_unshares": True}),
    ((6, 3), {"migrates_in_batches": True}),
    ((6, 4), {"split_keeps_dirty": True}),
    ((6, 6), {"saved_dirty": True}),
    ((6, 7), {"mremap_aligns": True}),
    ((6, 9), {"pageout_ages": False, "hugetlb_reserves_again": True}),
    ((6, 10), {"has_change_pte": False, "huge_parts_stay": True}),
    ((6, 11), {"swapin_writable": True, "reclaim_announces_split": False}),
    ((6, 12), {"mprotect_notifies_level": 3}),
    ((6, 13), {"huge_zero_replaced": True}),
)
"""The releases that changed something, and what."""


@cache
def kernel_for(number: tuple[int, int]) -> HostKernel:
    """The model for kernel `number` (major, minor); before 6.1 that of 6.1, whose differences from it are not known."""
    if number <= (6, 1):
        return HOST_6_1
    kernel = HOST_6_1
    for release, fields in _CHANGES:
        if release <= number:
            kernel = replace(kernel, **fields)
    return replace(kernel, name=f"{number[0]}.{number[1]}")


HOST_6_7 = kernel_for((6, 7))
HOST_6_12 = kernel_for((6, 12))
HOST_6_13 = kernel_for((6, 13))
