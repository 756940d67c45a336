"""Parameters of one IOMMU: sizes, capabilities and the knobs K1-K11 of the fact sheet."""

from dataclasses import dataclass, fields
from enum import Enum

from pymodel.spec.faults import FAULT_RECORD
from pymodel.spec.registers import CAP, ECAP, FAULT_RECORD_OFFSET

__all__ = ["PRESETS", "Architecture", "IommuParams"]

assert FAULT_RECORD.width == 128


class Architecture(Enum):
    """Whose invalidation rules hold (K1, K2)."""

    VTD = "vtd"
    AMD = "amd"


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class IommuParams:
    """Everything that RTL, models and benches have to agree on; raises `ValueError` naming field and value."""

    iotlb_entries: int = 32
    """IOTLB lines, a power of two in 1..1024; a line holds 8 neighbouring pages of one size."""
    psc_entries: int = 16
    """Lines of each paging-structure cache (one per table level), a power of two in 1..256; 8 pointers a line."""
    context_entries: int = 16
    """Context/PASID cache entries, a power of two in 1..256."""
    walk_slots: int = 8
    """Walks in flight, 1..64."""
    pending_requests: int = 16
    """Requests that may wait for walks, 1..256 and at least `walk_slots`."""
    tag_bits: int = 8
    """Width of a request tag, 1..16."""
    haw: int = 48
    """Host address width in bits, 36..52."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Table depths offered in CAP.SAGAW, a rising subset of (3, 4, 5)."""
    large_pages: int = 2
    """0: 4 KiB only, 1: also 2 MiB, 2: also 1 GiB (CAP.SSLPS)."""
    max_address_mask: int = 18
    """CAP.MAMV: largest AM of a page-selective invalidation, 0..52."""
    fault_records: int = 8
    """CAP.NFR: fault recording registers, 1..128."""
    snoop_control: bool = True
    """ECAP.SC."""
    pass_through: bool = True
    """ECAP.PT."""
    scalable: bool = True
    """ECAP.SMTS: scalable mode with PASID tables."""

    inval_scope: Architecture = Architecture.VTD
    """K1: VTD drops every cached leaf that overlaps the range, AMD only leaves not larger than the range."""
    psc_scope: Architecture = Architecture.VTD
    """K2: VTD IH=0 drops every cached pointer used by the range, AMD only pointers whose span fits in it."""
    np_cache: bool = False
    """K3: not-present entries may be cached. The RTL and the cycle model are built for False."""
    leaf_snp_legal: bool = True
    """K4: bit 11 of a leaf is SNP when ECAP.SC is set; False: reserved whatever ECAP.SC says."""
    prq_overflow_success: bool = True
    """K5: an overflowing last page request is answered Success. For the page-request queue, not built yet."""
    rewalk_on_perm: bool = False
    """K6: a cached leaf without the permission is walked again before a fault is raised."""
    pr_implicit_inv: bool = False
    """K7: a page request drops cached translations of its page. For the page-request queue, not built yet."""
    drain_always: bool = True
    """K8: a wait drains old translations whatever DR/DW say. The RTL and the cycle model are built for True."""
    walk_drain: bool = True
    """K9: an invalidation restarts walks that consumed an old entry. False is wrong, kept to show it."""
    ats_pregrant_dirty: bool = False
    """K10: an ATS completion with W=1 sets D. For ATS, not built yet."""
    inv_reorder: bool = False
    """K11: the queue may reorder up to a fence. The RTL and the cycle model work in order (False)."""

    def __post_init__(self) -> None:
        ranges = {
            "iotlb_entries": (1, 1024),
            "psc_entries": (1, 256),
            "context_entries": (1, 256),
            "walk_slots": (1, 64),
            "pending_requests": (1, 256),
            "tag_bits": (1, 16),
            "haw": (36, 52),
            "large_pages": (0, 2),
            "max_address_mask": (0, 52),
            "fault_records": (1, 128),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, not {value!r}")
        for name in ("iotlb_entries", "psc_entries", "context_entries"):
            if not _power_of_two(getattr(self, name)):
                raise ValueError(f"{name} must be a power of two, not {getattr(self, name)}")
        if self.pending_requests < self.walk_slots:
            raise ValueError(
                f"pending_requests must be at least walk_slots ({self.walk_slots}), not {self.pending_requests}"
            )
        if not self.levels or tuple(sorted(set(self.levels) & {3, 4, 5})) != tuple(self.levels):
            raise ValueError(f"levels must be a rising, non-empty subset of (3, 4, 5), not {self.levels!r}")
        for field in fields(self):
            if field.type in ("bool", bool) and not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"{field.name} must be true or false, not {getattr(self, field.name)!r}")

    @property
    def max_levels(self) -> int:
        """Deepest table offered, 3..5."""
        return self.levels[-1]

    @property
    def iova_bits(self) -> int:
        """Widest translatable IOVA in bits: 39, 48 or 57."""
        return 12 + 9 * self.max_levels

    @property
    def snp_legal(self) -> bool:
        """True where bit 11 of a leaf means snoop, False where it is reserved."""
        return self.snoop_control and self.leaf_snp_legal

    @property
    def cap(self) -> int:
        """Value of CAP."""
        sagaw = sum(1 << (depth - 2) for depth in self.levels)
        return CAP.pack(
            nd=6, cm=self.np_cache, sagaw=sagaw, mgaw=self.iova_bits - 1, fro=FAULT_RECORD_OFFSET // 16,
            sslps=(1 << self.large_pages) - 1, psi=1, nfr=self.fault_records - 1, mamv=self.max_address_mask,
            dwd=1, drd=1,
        )  # fmt: skip

    @property
    def ecap(self) -> int:
        """Value of ECAP."""
        smts = int(self.scalable)
        return ECAP.pack(
            c=1, qi=1, pt=self.pass_through, sc=self.snoop_control, pss=19 * smts, pasid=smts, smts=smts, ssts=smts,
            smpwc=smts,
        )  # fmt: skip


PRESETS = {
    "small": IommuParams(iotlb_entries=4, psc_entries=2, context_entries=2, walk_slots=2, pending_requests=4,
                         fault_records=1),
    "default": IommuParams(),
    "large": IommuParams(iotlb_entries=128, psc_entries=32, context_entries=64, walk_slots=32, pending_requests=64,
                         haw=52),
}  # fmt: skip
"""Parameter sets of `twodim verilog --preset`."""
