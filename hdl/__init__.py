"""The IOMMU in Amaranth; imports nothing of the golden model but `pymodel.spec`."""
