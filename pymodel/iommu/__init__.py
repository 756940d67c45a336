"""The architectural, untimed IOMMU: which outcomes of an access are legal (design decision D3, judge 1)."""

from pymodel.iommu.architectural import ArchitecturalIommu
from pymodel.iommu.faults import FaultJudge
from pymodel.iommu.legal import Judge, Violation
from pymodel.iommu.translate import translate
from pymodel.iommu.types import Outcome, Request, TableMemory

__all__ = [
    "ArchitecturalIommu",
    "FaultJudge",
    "Judge",
    "Outcome",
    "Request",
    "TableMemory",
    "Violation",
    "translate",
]
