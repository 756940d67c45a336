"""Which kernel's TDP MMU is modelled: the differences that facts.md names, as one record per version.

Sources: facts.md section K and C1-C6 (recordings of 6.1 and 6.12, stored trees of 6.7 and later).
"""

from dataclasses import dataclass, replace

__all__ = ["V6_1", "V6_7", "V6_12", "V6_13", "KvmVersion", "version_for"]


@dataclass(frozen=True, slots=True)
class KvmVersion:
    """One kernel's choices; fields are read by the algorithm that they change."""

    name: str
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
    early_retry: bool
    """The sequence is also tested without the lock before and after the pfn lookup (6.8+)."""
    retry_by_gfn: bool
    """In-progress ranges are gfns (6.8+), not host addresses."""
    has_change_pte: bool
    """The change_pte notifier exists (before 6.10, facts C2)."""
    clear_split_short: bool
    """KVM_CLEAR_DIRTY_LOG splits one page too few, its range has an inclusive end (before 6.8)."""
    parent_flush_range: bool
    """6.1: a huge leaf over a table flushes the span of the parent's table, one level too wide."""
    invalid_root_flush: bool
    """Zapping leaves of an invalid root still asks for a flush (6.1)."""
    slot_zap_quirk: bool
    """KVM_X86_QUIRK_SLOT_ZAP_ALL exists and can be disabled (6.12+)."""
    recover_huge: bool
    """Turning logging off recovers huge pages in place (6.13+) instead of zapping tables (facts C6)."""
    spurious_early: bool
    """A fault, or any prefetch, at a leaf that already allows the access is spurious at once (6.13+, facts C1)."""
    dirty_always: bool
    """Every writable leaf is made with D; before, not where the old entry looked writable (6.13+)."""
    emulator_retries: bool
    """An emulated write that could not be a page-table write is first retried by the guest (before 6.12)."""
    pre_fault: bool
    """KVM_PRE_FAULT_MEMORY exists (6.11+)."""
    load_flushes_guest: bool
    """The first entry of a vCPU serves a guest TLB flush before the root is made."""

    @property
    def ret_retry(self) -> int:
        """RET_PF_RETRY, 1 in every kernel."""
        return 1

    @property
    def ret_emulate(self) -> int:
        """RET_PF_EMULATE, 2 in every kernel."""
        return 2


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
    early_retry=False,
    retry_by_gfn=False,
    has_change_pte=True,
    clear_split_short=True,
    parent_flush_range=True,
    invalid_root_flush=True,
    slot_zap_quirk=False,
    recover_huge=False,
    spurious_early=False,
    dirty_always=False,
    emulator_retries=True,
    pre_fault=False,
    load_flushes_guest=False,
)
V6_7 = replace(V6_1, name="6.7", split_on_fault=True, parent_flush_range=False, nx_mark_every_table=True)
V6_12 = replace(
    V6_7,
    name="6.12",
    suppress_ve_empty=True,
    ret_invalid=4,
    ret_fixed=5,
    ret_spurious=6,
    flush_before_children=True,
    root_zap_levels=(1, 2, 3, 0),
    early_retry=True,
    retry_by_gfn=True,
    has_change_pte=False,
    clear_split_short=False,
    invalid_root_flush=False,
    slot_zap_quirk=True,
    emulator_retries=False,
    pre_fault=True,
    load_flushes_guest=True,
)
V6_13 = replace(V6_12, name="6.13+", recover_huge=True, spurious_early=True, dirty_always=True)


def version_for(release: str) -> KvmVersion:
    """The model for a kernel release string like `6.12.117+deb12-amd64`.

    Raises `ValueError` if it does not start with two numbers.
    """
    parts = release.split(".")
    if len(parts) < 2:
        raise ValueError(f"kernel release must start with MAJOR.MINOR, not {release!r}")
    major, minor = parts[0], "".join(iter_digits(parts[1]))
    if not major.isdigit() or not minor:
        raise ValueError(f"kernel release must start with MAJOR.MINOR, not {release!r}")
    number = (int(major), int(minor))
    for first, version in (((6, 13), V6_13), ((6, 10), V6_12), ((6, 2), V6_7)):
        if number >= first:
            return version
    return V6_1


def iter_digits(text: str) -> list[str]:
    """The leading decimal digits of `text`."""
    digits = []
    for letter in text:
        if not letter.isdigit():
            break
        digits.append(letter)
    return digits
