"""Which kernel's TDP MMU is modelled: one field a difference, and the release that brought it.

Sources: facts.md K (recordings of 6.1 and 6.12), C0-C11 (stored trees of 6.7 and later); where those two leave a
span of releases open, the release of the kernel's own commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

__all__ = ["V6_1", "V6_7", "V6_8", "V6_10", "V6_12", "V6_13", "V6_18", "KvmVersion", "is_known", "kernel",
           "version_for"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class KvmVersion:
    """One kernel's choices; fields are read by the algorithm that they change."""

    name: str
    """The release, MAJOR.MINOR."""
    suppress_ve_empty: bool
    """An empty entry holds bit 63 instead of 0 (6.10+)."""
    ret_invalid: int
    ret_fixed: int
    ret_spurious: int
    split_on_fault: bool
    """A huge page in the way of a 4K fault is split in place; older kernels zap it (facts K)."""
    flush_before_children: bool
    """Atomic zap: flush first, then handle the removed children and trace one step to empty (6.10+, facts C4)."""
    root_zap_levels: tuple[int, ...]
    """Levels of the passes over a dying root; 0 stands for the root's own level."""
    nx_mark_every_table: bool
    """Every table made by an exec fault under the NX mitigation is marked, not only those that could be huge."""
    nx_recovery_shared: bool
    """The recovery worker takes the lock shared and exchanges the entry atomically (6.18+, facts C3)."""
    early_retry: bool
    """The sequence is also tested without the lock before and after the pfn lookup (6.9+, facts C1)."""
    retry_by_gfn: bool
    """In-progress ranges are gfns (6.8+), not host addresses."""
    private_memory: bool
    """Memory attributes and guest_memfd exist (6.8+, facts C9)."""
    mismatch_first: bool
    """A fault of the wrong kind is refused before it is seen whether the slot is going (6.10+)."""
    mismatch_not_fast: bool
    """A fault of the wrong kind, private or shared, does not try the fast path (6.11+)."""
    has_change_pte: bool
    """The change_pte notifier exists (before 6.10, facts C2)."""
    clear_split_short: bool
    """KVM_CLEAR_DIRTY_LOG splits one page too few, its range has an inclusive end (before 6.8)."""
    clear_bits_atomic: bool
    """Get and clear of the log take W or D away with one fetch-and; before 6.4 with an exchange (facts C7)."""
    split_unlocks: bool
    """Eager splitting always gives the lock up to allocate a table (6.11+), not only where memory is short."""
    parent_flush_range: bool
    """6.1: a huge leaf over a table flushes the span of the parent's table, one level too wide."""
    invalid_root_flush: bool
    """Zapping leaves of an invalid root still asks for a flush (before 6.9)."""
    dying_roots_too: bool
    """Write protection, the clearing of the log and zaps for a memory type also visit invalid roots (before 6.9)."""
    roots_shared: bool
    """Roots are found, made and let go of under the shared lock (6.9+), not the exclusive one."""
    destroy_exclusive: bool
    """What a dying VM leaves is zapped under the exclusive lock (6.14+)."""
    slot_zap_quirk: bool
    """KVM_X86_QUIRK_SLOT_ZAP_ALL exists and can be disabled (6.12+)."""
    recover_huge: bool
    """Turning logging off recovers huge pages in place (6.13+) instead of zapping tables (facts C6)."""
    spurious_early: bool
    """A fault, or any prefetch, at a leaf that already allows the access is spurious at once (6.13+, facts C1)."""
    prefetch_needs_leaf: bool
    """A prefetch is spurious only at a leaf (6.15+); in 6.13 and 6.14 at a table of the wanted level, too."""
    dirty_always: bool
    """Every writable leaf is made with D; before, not where the old entry looked writable (6.13+)."""
    age_flushes: bool
    """clear_flush_young flushes if a page was young (before 6.13; facts C7: a stale translation is tolerated)."""
    age_locked: bool
    """Ageing takes mmu_lock exclusively (facts C0 "older"); from 6.15 on without a lock."""
    age_dying_roots: bool
    """Ageing also visits invalid roots (before 6.14)."""
    software_ad: bool
    """Without A and D in hardware KVM keeps the EPT bits itself (6.13+), see `spte.ept`."""
    emulator_retries: bool
    """An emulated write that could not be a page-table write is first retried by the guest (before 6.12)."""
    pre_fault: bool
    """KVM_PRE_FAULT_MEMORY exists (6.11+)."""
    pre_fault_gives_up: bool
    """It fails with EAGAIN at a slot that is being deleted or moved (6.18+), and does not try on."""
    load_flushes_guest: bool
    """The first entry of a vCPU serves a guest TLB flush before the root is made."""
    guest_memory_type: bool
    """With non-coherent DMA, EPT takes CR0.CD and the guest's MTRRs into account (before 6.11, facts C11)."""
    cd_ignores_pat: bool
    """CR0.CD with its quirk: write-back without the guest's PAT (before 6.7); then with it."""
    noncoherent_zaps: bool
    """The first and the last non-coherent device zap every entry (6.7+, facts C11)."""

    @property
    def ret_retry(self) -> int:
        """RET_PF_RETRY, 1 in every kernel."""
        return 1

    @property
    def ret_emulate(self) -> int:
        """RET_PF_EMULATE, 2 in every kernel."""
        return 2

    @property
    def ret_write_protected(self) -> int:
        """RET_PF_WRITE_PROTECTED, which 6.12 put before RET_PF_INVALID; older kernels say RET_PF_EMULATE there."""
        return self.ret_invalid - 1


Release = tuple[int, int]
_OLDEST: Release = (6, 1)
_NEWEST: Release = (6, 18)
"""The releases that facts.md speaks about; others are given the nearest one's behaviour."""

V6_1 = KvmVersion(
    name="6.1",
    suppress_ve_empty=False,
    ret_invalid=3,
    ret_fixed=4,
    ret_spurious=5,
    split_on_fault=False,
    flush_before_children=False,
    root_zap_levels=(3, 0),
    nx_mark_every_table=False,
    nx_recovery_shared=False,
    early_retry=False,
    retry_by_gfn=False,
    private_memory=False,
    mismatch_first=False,
    mismatch_not_fast=False,
    has_change_pte=True,
    clear_split_short=True,
    clear_bits_atomic=False,
    split_unlocks=False,
    parent_flush_range=True,
    invalid_root_flush=True,
    dying_roots_too=True,
    roots_shared=False,
    destroy_exclusive=False,
    slot_zap_quirk=False,
    recover_huge=False,
    spurious_early=False,
    prefetch_needs_leaf=False,
    dirty_always=False,
    age_flushes=True,
    age_locked=True,
    age_dying_roots=True,
    software_ad=False,
    emulator_retries=True,
    pre_fault=False,
    pre_fault_gives_up=False,
    load_flushes_guest=False,
    guest_memory_type=True,
    cd_ignores_pat=True,
    noncoherent_zaps=False,
)
_CHANGES: tuple[tuple[Release, Mapping[str, Any]], ...] = (
    ((6, 2), {"split_on_fault": True, "parent_flush_range": False, "nx_mark_every_table": True}),
    ((6, 4), {"clear_bits_atomic": True}),
    ((6, 7), {"noncoherent_zaps": True, "cd_ignores_pat": False}),
    ((6, 8), {"retry_by_gfn": True, "private_memory": True, "clear_split_short": False}),
    ((6, 9), {"early_retry": True, "invalid_root_flush": False, "root_zap_levels": (1, 2, 3, 0),
              "dying_roots_too": False, "roots_shared": True}),
    ((6, 10), {"suppress_ve_empty": True, "flush_before_children": True, "has_change_pte": False,
               "mismatch_first": True}),
    ((6, 11), {"pre_fault": True, "split_unlocks": True, "guest_memory_type": False,
               "mismatch_not_fast": True}),
    ((6, 12), {"ret_invalid": 4, "ret_fixed": 5, "ret_spurious": 6, "slot_zap_quirk": True, "emulator_retries": False,
               "load_flushes_guest": True}),
    ((6, 13), {"recover_huge": True, "spurious_early": True, "dirty_always": True, "age_flushes": False,
               "software_ad": True}),
    ((6, 14), {"age_dying_roots": False, "destroy_exclusive": True}),
    ((6, 15), {"age_locked": False, "prefetch_needs_leaf": True}),
    ((6, 18), {"nx_recovery_shared": True, "pre_fault_gives_up": True}),
)  # fmt: skip
"""What each release changed against the one before it."""


def kernel(major: int, minor: int) -> KvmVersion:
    """The model for a release; outside of what is known the nearest one, whose `name` then tells which."""
    release = min(max((major, minor), _OLDEST), _NEWEST)
    version = V6_1
    for _, fields in takewhile(lambda change: change[0] <= release, _CHANGES):
        version = replace(version, **fields)
    return replace(version, name=f"{release[0]}.{release[1]}")


V6_7, V6_8, V6_10 = kernel(6, 7), kernel(6, 8), kernel(6, 10)
V6_12, V6_13, V6_18 = kernel(6, 12), kernel(6, 13), kernel(6, 18)


def version_for(release: str) -> KvmVersion:
    """The model for a kernel release string like `6.12.117+deb12-amd64`.

    Raises `ValueError` if it does not start with two numbers.
    """
    return kernel(*_release(release))


def is_known(release: str) -> bool:
    """Whether facts.md speaks about this release; another one's behaviour is the nearest known one's.

    Raises `ValueError` as `version_for` does.
    """
    return _OLDEST <= _release(release) <= _NEWEST


def _release(text: str) -> Release:
    parts = text.split(".")
    minor = "" if len(parts) < 2 else "".join(takewhile(_is_digit, parts[1]))
    if not parts[0] or not all(map(_is_digit, parts[0])) or not minor:
        raise ValueError(f"a kernel release must start with MAJOR.MINOR, not {text!r}")
    return int(parts[0]), int(minor)


def _is_digit(letter: str) -> bool:
    return letter in "0123456789"
