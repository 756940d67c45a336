"""Payloads of the native ports and records that pass between components."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from hdl.lib.choose import index_width
from pymodel.spec.observation import payloads
from pymodel.spec.params import IommuParams

__all__ = ["apply_layout", "context_layout", "fault_layout", "key_layout", "port", "port_layout", "start_layout",
           "strobe_port"]  # fmt: skip


def port_layout(params: IommuParams, name: str) -> data.StructLayout:
    """Payload of a native port, by its name in `pymodel.spec.observation.payloads`."""
    return data.StructLayout(dict(payloads(params)[name]))


def port(params: IommuParams, name: str) -> stream.Signature:
    """Stream signature of a native port, as its source sees it."""
    return stream.Signature(port_layout(params, name))


def strobe_port(params: IommuParams, name: str) -> wiring.Signature:
    """Signature of a native port whose sink is always ready (docs/timing.md P3), as its source sees it."""
    return wiring.Signature({"valid": Out(1), "payload": Out(port_layout(params, name))})


def key_layout() -> data.StructLayout:
    """Key of a context/PASID cache entry; `pasid` is 0 without `pasid_valid`."""
    return data.StructLayout({"sid": 16, "pasid_valid": 1, "pasid": 20})


def context_layout(params: IommuParams) -> data.StructLayout:
    """What a request's context says. `depth` is the number of table levels, 3..5; `table` a frame number."""
    return data.StructLayout(
        {"pass_through": 1, "did": 16, "depth": 3, "table": params.haw - 12, "fpd": 1, "pgsnp": 1}
    )


def start_layout(params: IommuParams) -> data.StructLayout:
    """A walk to start. `page` is the IOVA from bit 15 up; context walks use only `key`."""
    return data.StructLayout(
        {
            "context": 1,
            "key": key_layout(),
            "scalable": 1,
            "did": 16,
            "depth": 3,
            "page": params.iova_bits - 15,
            "level": 3,
            "table": params.haw - 12,
            "r": 1,
            "w": 1,
        }
    )


def fault_layout() -> data.StructLayout:
    """A fault to record."""
    return data.StructLayout(
        {"reason": 8, "sid": 16, "pasid_valid": 1, "pasid": 20, "page": 52, "read": 1}
    )


def apply_layout(params: IommuParams) -> data.StructLayout:
    """An invalidation as it is applied (docs/timing.md I6).

    `everything`, `by_did` and `by_page` exclude each other; `page` and `care` are page numbers, a 0 in `care`
    means that the bit is not compared. Context invalidations use `everything`, `by_did`, `by_sid`,
    `by_pasid`.
    """
    return data.StructLayout(
        {
            "context": 1,
            "iotlb": 1,
            "everything": 1,
            "by_did": 1,
            "by_sid": 1,
            "by_pasid": 1,
            "by_page": 1,
            "did": 16,
            "sid": 16,
            "sid_care": 16,
            "pasid": 20,
            "page": 52,
            "care": 52,
            "keep_pointers": 1,
        }
    )


def slot_index(params: IommuParams) -> int:
    """Width of a walk slot's index."""
    return index_width(params.walk_slots)


def pending_index(params: IommuParams) -> int:
    """Width of a pending entry's index."""
    return index_width(params.pending_requests)
