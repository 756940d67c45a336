"""Tests of the architectural IOMMU."""
