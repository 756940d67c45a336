"""Golden model of the software and hardware around an IOMMU; numpy is its only dependency."""
