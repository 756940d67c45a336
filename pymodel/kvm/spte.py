"""Shadow page-table entries: KVM's bits on top of NPT and EPT (facts A2, A3, K; arch/x86/kvm/mmu/spte.c)."""

from dataclasses import dataclass

from pymodel.kvm.errors import EINVAL, KvmError

__all__ = ["ADDRESS", "GEN_BITS", "LARGE", "WRITABLE", "SpteFormat", "ept", "npt", "pages"]

WRITABLE = 1 << 1
"""PT_WRITABLE_MASK; bit 1 in both formats."""
LARGE = 1 << 7
"""PT_PAGE_SIZE_MASK; bit 7 in both formats."""
ADDRESS = ((1 << 52) - 1) & ~0xFFF
GEN_BITS = 19
"""Bits of the memslot generation that an MMIO entry holds."""

_FROZEN = 0x5A0
"""Bits of a frozen entry; in 6.1 and 6.12 as recorded (facts K)."""
_SUPPRESS_VE = 1 << 63
_AD_DISABLED = 1 << 52
_AD_WRPROT_ONLY = 2 << 52
_AD_MASK = 3 << 52
_GEN_11 = ((3, 0, 8), (52, 8, 11))
"""(lsb in the entry, lsb in the generation, width) with the live marker at bit 11."""
_GEN_59 = ((3, 0, 9), (52, 9, 7), (60, 16, 3))


def pages(level: int) -> int:
    """KVM_PAGES_PER_HPAGE: 4K pages under one entry of `level` (1 is a 4K entry)."""
    return 1 << (9 * (level - 1))


@dataclass(frozen=True, slots=True)
class SpteFormat:
    """The masks of one entry format (kvm_mmu_set_ept_masks, kvm_mmu_reset_all_pte_masks)."""

    name: str
    live: int
    """SPTE_MMU_PRESENT: KVM's only test for a live entry."""
    hw_present: int
    user: int
    exec_on: int
    """Set where execution is allowed (EPT)."""
    exec_off: int
    """Set where it is not (NPT)."""
    accessed: int
    dirty: int
    host_writable: int
    mmu_writable: int
    memory_type: int
    mmio_value: int
    mmio_mask: int
    mmio_access: int
    generation: tuple[tuple[int, int, int], ...]
    empty: int
    ad_enabled: bool = True
    is_ept: bool = False
    software_ad: bool = False
    """Without `ad_enabled`: `accessed` and `dirty` are kept all the same, by KVM alone."""
    suppress_ve: int = 0
    """Set in every live entry, so that no violation becomes a #VE of the guest (EPT, 6.10+)."""
    frozen_bits: int = _FROZEN
    """0x498 after a patch of unknown fate that keeps clear of every A and D bit (facts A2)."""

    @property
    def frozen(self) -> int:
        """REMOVED_SPTE, later FROZEN_SPTE: nobody but its owner writes over it."""
        return self.empty | self.frozen_bits

    def is_present(self, spte: int) -> bool:
        """is_shadow_present_pte."""
        return bool(spte & self.live)

    def is_leaf(self, spte: int, level: int) -> bool:
        """is_last_spte of a live entry."""
        return level == 1 or bool(spte & LARGE)

    def is_table(self, spte: int, level: int) -> bool:
        """A live entry that points to a lower table."""
        return bool(spte & self.live) and level > 1 and not spte & LARGE

    def pfn(self, spte: int) -> int:
        """spte_to_pfn."""
        return (spte & ADDRESS) >> 12

    def is_mmu_writable(self, spte: int) -> bool:
        """is_mmu_writable_spte: may be made writable without the lock."""
        return bool(spte & self.mmu_writable)

    def nonleaf(self, frame: int) -> int:
        """make_nonleaf_spte."""
        spte = self.live | frame << 12 | self.hw_present | self.suppress_ve | WRITABLE | self.user | self.exec_on
        return spte | (self.accessed if self.ad_enabled else _AD_DISABLED if self.is_ept else 0)

    def leaf(
        self,
        pfn: int,
        level: int,
        old: int,
        *,
        host_writable: bool,
        executable: bool = True,
        prefetch: bool = False,
        memory_type: int | None = None,
        tracked: bool = False,
        protect_only: bool = False,
    ) -> int:
        """make_spte of a direct map whose access is all but what the arguments take away.

        D is left out where the old entry looks like a leaf with bit 1 set (an MMIO entry does, too): make_spte takes
        that for "was writable already". `tracked`: writes are to be caught, so that the entry is host-writable at
        most. `protect_only`: A/D scheme 2, for a guest of the guest whose writes PML does not log (facts A2, C7).
        """
        spte = self.live | self.hw_present | self.suppress_ve | self.user
        keeps_ad = self.ad_enabled or self.software_ad
        spte |= self.memory_type if memory_type is None else memory_type
        if self.is_ept:
            spte |= _AD_DISABLED if not self.ad_enabled else _AD_WRPROT_ONLY if protect_only else 0
        if not prefetch and keeps_ad:
            spte |= self.accessed
        spte |= self.exec_on if executable else self.exec_off
        if level > 1:
            spte |= LARGE
        spte |= pfn << 12
        if host_writable:
            spte |= self.host_writable
        if host_writable and not tracked:
            spte |= WRITABLE | self.mmu_writable
            if keeps_ad and not (old & WRITABLE and (level == 1 or old & LARGE)):
                spte |= self.dirty
        return self.access_track(spte) if prefetch else spte

    def access_track(self, spte: int) -> int:
        """mark_spte_for_access_track: A cleared, or without A/D bits R and X moved to 54 and 56."""
        if self.ad_enabled:
            return spte & ~self.accessed
        saved = spte & 0b101
        return spte & ~(0b111 | (self.accessed if self.software_ad else 0)) | saved << 54

    def is_access_track(self, spte: int) -> bool:
        """is_access_track_spte."""
        return self.is_ept and not self.ad_enabled and not spte & 0b111

    def is_accessed(self, spte: int) -> bool:
        """is_accessed_spte."""
        return bool(spte & self.accessed) if self.ad_enabled or self.software_ad else not self.is_access_track(spte)

    def restore_access_track(self, spte: int) -> int:
        """restore_acc_track_spte."""
        return spte & ~(0b101 << 54) | spte >> 54 & 0b101

    def split_child(self, huge: int, child_level: int, index: int, executable: bool) -> int:
        """make_huge_page_split_spte."""
        child = huge | (index * pages(child_level)) << 12
        if child_level == 1:
            child &= ~LARGE
            if executable:
                child = self._with_execution(child, True)
        return child

    def huge_of(self, small: int, level: int, executable: bool) -> int:
        """make_huge_spte (6.13+): the huge page that a small one is part of."""
        huge = (small | LARGE) & ~((pages(level) - 1) << 12)
        return huge if executable else self._with_execution(huge, False)

    def _with_execution(self, spte: int, allowed: bool) -> int:
        """make_spte_executable, make_spte_nonexecutable: of an access-tracked entry the saved X is what counts."""
        tracked = self.is_access_track(spte)
        if tracked:
            spte = self.restore_access_track(spte)
        spte = spte & ~self.exec_off | self.exec_on if allowed else spte & ~self.exec_on | self.exec_off
        return self.access_track(spte) if tracked else spte

    def is_volatile(self, spte: int) -> bool:
        """spte_has_volatile_bits: a live leaf that hardware or the fast path may change without the lock."""
        if not spte & WRITABLE and spte & self.mmu_writable:
            return True
        if not self.ad_enabled:
            return self.is_access_track(spte)
        return not spte & self.accessed or bool(spte & WRITABLE and not spte & self.dirty)

    def allows(self, spte: int, *, write: bool, execute: bool) -> bool:
        """is_access_allowed: whether a present entry grants the access."""
        if execute:
            return not spte & self.exec_off if self.exec_off else bool(spte & self.exec_on)
        if write:
            return bool(spte & WRITABLE)
        return bool(spte & self.hw_present)

    def is_mmio(self, spte: int) -> bool:
        """is_mmio_spte."""
        return spte & self.mmio_mask == self.mmio_value and not spte & self.live

    def mmio(self, gfn: int, generation: int, access: int) -> int:
        """make_mmio_spte."""
        spte = self.mmio_value | access & self.mmio_access | gfn << 12
        for lsb, first, width in self.generation:
            spte |= (generation >> first & (1 << width) - 1) << lsb
        return spte

    def mmio_generation(self, spte: int) -> int:
        """get_mmio_spte_generation."""
        return sum((spte >> lsb & (1 << width) - 1) << first for lsb, first, width in self.generation)


def npt(*, suppress_ve_empty: bool, marker: int = 11) -> SpteFormat:
    """AMD nested paging with `marker` (11 or 59) as the live bit; facts A3, values as in facts K."""
    generation = _generation(marker)
    return SpteFormat(
        name="npt",
        live=1 << marker,
        hw_present=1,
        user=1 << 2,
        exec_on=0,
        exec_off=1 << 63,
        accessed=1 << 5,
        dirty=1 << 6,
        host_writable=1 << 9,
        mmu_writable=1 << 10,
        memory_type=0,
        mmio_value=1 << 51 | 1,
        mmio_mask=1 << 51 | 1,
        mmio_access=0b110,
        generation=generation,
        empty=1 << 63 if suppress_ve_empty else 0,
    )


def ept(
    *, suppress_ve_empty: bool, marker: int = 11, ad_enabled: bool = True, software_ad: bool = False
) -> SpteFormat:
    """Intel EPT with write-back and IPAT; `marker` 59 is the RFC's choice that VT-d can walk (facts A2).

    Kernels whose empty entries hold bit 63 (suppress #VE) set it in live ones, too; only MMIO entries are without.
    """
    return SpteFormat(
        name="ept",
        live=1 << marker,
        hw_present=1,
        user=0,
        exec_on=1 << 2,
        exec_off=0,
        accessed=1 << 8,
        dirty=1 << 9,
        host_writable=1 << 57,
        mmu_writable=1 << 58,
        memory_type=6 << 3 | 1 << 6,
        mmio_value=0b110,
        mmio_mask=0b111 | (_SUPPRESS_VE if suppress_ve_empty else 0),
        mmio_access=0,
        generation=_generation(marker),
        empty=_SUPPRESS_VE if suppress_ve_empty else 0,
        ad_enabled=ad_enabled,
        is_ept=True,
        software_ad=software_ad,
        suppress_ve=_SUPPRESS_VE if suppress_ve_empty else 0,
    )


def _generation(marker: int) -> tuple[tuple[int, int, int], ...]:
    if marker not in (11, 59):
        raise KvmError(EINVAL, "marker", "bit 11 or 59", marker)
    return _GEN_11 if marker == 11 else _GEN_59
