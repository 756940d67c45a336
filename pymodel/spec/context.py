"""Root, context and PASID structures (facts A4)."""

from pymodel.spec.fields import Field, Format

__all__ = [
    "ADDRESS_WIDTH_LEVELS",
    "LEGACY_CONTEXT",
    "LEGACY_ROOT",
    "PASID_DIRECTORY",
    "PASID_ENTRY",
    "PGTT_PASS_THROUGH",
    "PGTT_SECOND_STAGE",
    "RTADDR",
    "SCALABLE_CONTEXT",
    "SCALABLE_ROOT_HALF",
    "TTM_ABORT",
    "TTM_LEGACY",
    "TTM_SCALABLE",
    "TT_DEVICE_TLB",
    "TT_PASS_THROUGH",
    "TT_UNTRANSLATED",
]

ADDRESS_WIDTH_LEVELS = {1: 3, 2: 4, 3: 5}
"""AW/AGAW code to paging levels: 39, 48 and 57 bits (facts A1)."""

TTM_LEGACY, TTM_SCALABLE, TTM_ABORT = 0, 1, 3
TT_UNTRANSLATED, TT_DEVICE_TLB, TT_PASS_THROUGH = 0, 1, 2
PGTT_SECOND_STAGE, PGTT_PASS_THROUGH = 2, 4

RTADDR = Format(
    "RTADDR",
    64,
    Field("ttm", 10, 2, "translation table mode: 0 legacy, 1 scalable, 3 abort"),
    Field("address", 12, 52, "root table, bits 63:12"),
    source="facts A4: Linux intel/iommu.h",
)

LEGACY_ROOT = Format(
    "LEGACY_ROOT",
    128,
    Field("p", 0, 1, "present"),
    Field("context_table", 12, 52, "context table, bits 63:12; bits at and above HAW are reserved"),
    source="facts A4: VirtualBox, QEMU",
)

LEGACY_CONTEXT = Format(
    "LEGACY_CONTEXT",
    128,
    Field("p", 0, 1, "present"),
    Field("fpd", 1, 1, "fault processing disable: refuse, record nothing"),
    Field("tt", 2, 2, "0 second stage, 1 with device-TLB, 2 pass-through"),
    Field("table", 12, 52, "SSPTPTR, bits 63:12; bits at and above HAW are reserved; not looked at with TT=2"),
    Field("aw", 64, 3, "address width code"),
    Field("ignored_70_67", 67, 4, ignored=True),
    Field("did", 72, 16, "domain id"),
    source="facts A4, J: low 4-11 and haw..63, high 7 and 24-63 are reserved",
)

SCALABLE_ROOT_HALF = Format(
    "SCALABLE_ROOT_HALF",
    64,
    Field("p", 0, 1, "present"),
    Field("context_table", 12, 52, "context table for 128 functions; bits at and above HAW are reserved"),
    source="facts A4: VirtualBox; lower half devfn 0..127, upper half 128..255",
)

SCALABLE_CONTEXT = Format(
    "SCALABLE_CONTEXT",
    256,
    Field("p", 0, 1, "present"),
    Field("fpd", 1, 1, "fault processing disable"),
    Field("dte", 2, 1, "device-TLB enable; not looked at while ECAP.DT=0", ignored=True),
    Field("paside", 3, 1, "PASID enable"),
    Field("pre", 4, 1, "page request enable; not looked at while ECAP.PRS=0", ignored=True),
    Field("pdts", 9, 3, "PASID directory has 2**(PDTS+7) entries"),
    Field("pasid_directory", 12, 52, "bits at and above HAW are reserved"),
    Field("rid_pasid", 64, 20, "PASID of requests that carry none"),
    Field("rid_priv", 84, 1, ignored=True),
    source="facts A4: VirtualBox",
)

PASID_DIRECTORY = Format(
    "PASID_DIRECTORY",
    64,
    Field("p", 0, 1, "present"),
    Field("fpd", 1, 1, "fault processing disable"),
    Field("table", 12, 52, "PASID table of 64 entries; bits at and above HAW are reserved"),
    source="facts A4: VirtualBox, Linux intel/pasid.h",
)

PASID_ENTRY = Format(
    "PASID_ENTRY",
    512,
    Field("p", 0, 1, "present"),
    Field("fpd", 1, 1, "fault processing disable"),
    Field("aw", 2, 3, "second-stage address width code"),
    Field("ssee", 5, 1, "second-stage execute enable; not looked at", ignored=True),
    Field("pgtt", 6, 3, "2 second stage, 4 pass-through (1 first stage and 3 nested are not built yet)"),
    Field("ssade", 9, 1, "second-stage A/D enable; not looked at while ECAP.SSADS=0", ignored=True),
    Field("table", 12, 52, "SSPTPTR; bits at and above HAW are reserved; not looked at with PGTT=4"),
    Field("did", 64, 16, "domain id"),
    Field("pwsnp", 87, 1, "page-walk snoop", ignored=True),
    Field("pgsnp", 88, 1, "page snoop: every DMA of this PASID is snooped"),
    Field("cd", 89, 1, ignored=True),
    Field("emte", 90, 1, ignored=True),
    Field("emt", 91, 3, ignored=True),
    Field("pwt", 94, 1, ignored=True),
    Field("pcd", 95, 1, ignored=True),
    Field("pat", 96, 32, ignored=True),
    Field("first_stage", 128, 64, "SRE..FSPTPTR, looked at by first-stage translation only", ignored=True),
    source="facts A4: VirtualBox, Linux intel/pasid.h",
)
