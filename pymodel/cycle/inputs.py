"""What the cycle model is told in each cycle."""

from dataclasses import dataclass

__all__ = ["Inputs", "ReadData", "RegisterRequest", "Request"]

Request = tuple[int, int, int, int, int, int]
"""(tag, sid, pasid_valid, pasid, iova, write)."""
ReadData = tuple[int, int, int]
"""(id, error, data); byte 0 of the line is in the lowest bits of data."""
RegisterRequest = tuple[int, int, int, int]
"""(write, address, data, strobe)."""


@dataclass(slots=True)
class Inputs:
    """Inputs of one cycle (P1, P3); payloads as in `pymodel.spec.observation.payloads`; None: not valid."""

    request: Request | None = None
    hits_ready: bool = False
    completions_ready: bool = False
    reads_ready: bool = False
    writes_ready: bool = False
    register_responses_ready: bool = False
    read_data: ReadData | None = None
    write_ack: int | None = None
    register_request: RegisterRequest | None = None
    reset: bool = False
    """Reset (P4, P5): nothing else counts. The cycle model is told by `CycleModel.reset` instead of `step`."""
