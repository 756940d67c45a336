"""The cycle-exact model of the IOMMU, written from docs/timing.md. Needs `pymodel.spec` only."""

from pymodel.cycle.inputs import Inputs
from pymodel.cycle.iommu import CycleModel

__all__ = ["CycleModel", "Inputs"]
