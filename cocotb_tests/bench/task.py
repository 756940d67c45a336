"""What `twodim bench` simulates: one design, one job, and its figures once it ran."""

from dataclasses import dataclass, field
from typing import Any

from pymodel.spec.params import IommuParams

__all__ = ["Task", "bench_params"]


@dataclass
class Task:
    """One simulation, and once it ran its figures."""

    params: IommuParams
    job: str
    parameters: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    compared: int = 0
    """Cycles that were compared with the golden model."""

    @property
    def latency(self) -> int:
        """The memory's read latency."""
        return int(self.parameters["latency"])


def bench_params(slots: int, lines: int = 16) -> IommuParams:
    """The design that is measured: W walk slots, and as many IOTLB lines as the peer has entries."""
    return IommuParams(iotlb_entries=lines, walk_slots=slots, pending_requests=max(16, 2 * slots))
