"""What differs between kernels in the primary MMU: one field a difference (recordings of 6.1 and 6.12; mm/*.c)."""

from dataclasses import dataclass, replace

__all__ = ["HOST_6_1", "HOST_6_7", "HOST_6_12", "HOST_6_13", "HostKernel", "kernel_for"]


@dataclass(frozen=True, slots=True)
class HostKernel:
    """One kernel's choices; fields are read by the operation that they change."""

    name: str
    has_change_pte: bool
    """set_pte_at_notify calls change_pte (before 6.10, facts C2)."""
    nested_hugetlb_unmap: bool
    """Unmapping hugetlb pages calls the notifiers itself with UNMAP, inside the caller's range (before 6.3)."""
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
)
HOST_6_7 = replace(
    HOST_6_1,
    name="6.7",
    nested_hugetlb_unmap=False,
    mprotect_upgrades_all=True,
    split_keeps_dirty=True,
    saved_dirty=True,
    unmerge_unshares=True,
)
HOST_6_12 = replace(
    HOST_6_7,
    name="6.12",
    has_change_pte=False,
    pageout_ages=False,
    mprotect_notifies_level=3,
    swapin_writable=True,
)
HOST_6_13 = replace(HOST_6_12, name="6.13+", huge_zero_replaced=True)


def kernel_for(number: tuple[int, int]) -> HostKernel:
    """The model for kernel `number` (major, minor). Between two models that is the one with the same notifiers.

    change_pte went with 6.10; what separates 6.1 from 6.7 came with 6.2 to 6.6, and 6.2 counts as 6.7.
    """
    for first, kernel in (((6, 13), HOST_6_13), ((6, 10), HOST_6_12), ((6, 2), HOST_6_7)):
        if number >= first:
            return kernel
    return HOST_6_1
