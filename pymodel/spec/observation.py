"""Payloads of the native ports and the packed observation port, as ordered (name, width) lists, lowest bit first.

The observation of cycle c has two parts. *Outputs* are the output ports in cycle c; payloads are zero while their
`valid` is 0. *Events* say what happened in cycle c-1; their operands are zero while nothing happened.
docs/timing.md numbers the rules behind every field.
"""

from enum import IntEnum

from pymodel.spec.params import IommuParams

__all__ = ["Apply", "Lookup", "QueueState", "WriteId", "fetch_id", "line_bits", "observation", "payloads",
           "read_id_bits"]  # fmt: skip

Fields = tuple[tuple[str, int], ...]


class Lookup(IntEnum):
    """What the lookup stage did in a cycle."""

    NONE = 0
    """Nothing to look up."""
    STALL = 1
    """A request waits: an invalidation is applied, or a slot, a pending entry or space for the answer is missing."""
    PASS = 2
    """Answered untranslated."""
    HIT = 3
    FAULT = 4
    MERGE = 5
    """Joined a page walk."""
    WALK = 6
    """Started a page walk."""
    CONTEXT_MERGE = 7
    CONTEXT_WALK = 8


class Apply(IntEnum):
    """What an invalidation applied in a cycle drops."""

    NONE = 0
    CONTEXT = 1
    """Context/PASID cache entries."""
    IOTLB = 2
    """IOTLB and paging-structure cache entries."""


class QueueState(IntEnum):
    """State of the invalidation engine."""

    IDLE = 0
    FETCH = 1
    FETCHING = 2
    DECODE = 3
    APPLY = 4
    WAIT = 5
    STATUS = 6
    FENCE = 7


class WriteId(IntEnum):
    """Who issued a memory write."""

    STATUS = 0
    INVALIDATION_EVENT = 1
    FAULT_EVENT = 2


def read_id_bits(params: IommuParams) -> int:
    """Width of a read id: slots 0..W-1 and the queue fetch, W."""
    return params.walk_slots.bit_length()


def fetch_id(params: IommuParams) -> int:
    """Read id of the invalidation queue's fetch."""
    return params.walk_slots


def line_bits(params: IommuParams) -> int:
    """Width of a line number (byte address / 64)."""
    return params.haw - 6


def payloads(params: IommuParams) -> dict[str, Fields]:
    """Payload fields of every native port."""
    response = (("tag", params.tag_bits), ("reason", 8), ("address", 64), ("level", 2), ("r", 1), ("w", 1),
                ("snoop", 1))  # fmt: skip
    identifier = read_id_bits(params)
    return {
        "requests": (("tag", params.tag_bits), ("sid", 16), ("pasid_valid", 1), ("pasid", 20), ("iova", 64),
                     ("write", 1)),
        "hits": response,
        "completions": response,
        "reads": (("id", identifier), ("line", line_bits(params))),
        "read_data": (("id", identifier), ("error", 1), ("data", 512)),
        "writes": (("id", 2), ("address", 64), ("data", 32)),
        "write_acks": (("id", 2),),
        "register_requests": (("write", 1), ("address", 12), ("data", 64), ("strobe", 8)),
        "register_responses": (("data", 64),),
    }  # fmt: skip


def _bits(count: int) -> int:
    """Width that holds 0..count-1, at least 1."""
    return max(1, (count - 1).bit_length())


def observation(params: IommuParams) -> Fields:
    """Fields of the observation port."""
    ports = payloads(params)
    fields: list[tuple[str, int]] = [("requests_ready", 1), ("register_requests_ready", 1)]
    for port in ("hits", "completions", "reads", "writes", "register_responses"):
        fields.append((f"{port}_valid", 1))
        fields.extend((f"{port}_{name}", width) for name, width in ports[port])
    slots, pending = params.walk_slots, params.pending_requests
    fields += [
        ("queue_state", 3),
        ("queue_head", 15),
        ("slots_busy", slots),
        ("slots_killed", slots),
        ("pending_used", pending),
        ("translation_enabled", 1),
        ("queue_enabled", 1),
        ("queue_error", 1),
        ("fault_overflow", 1),
        ("fault_pending", 1),
        ("lookup", 4),
        ("lookup_replay", 1),
        ("lookup_pending", _bits(pending)),
        ("lookup_slot", _bits(slots)),
        ("lookup_level", 3),
        ("arrival", 1),
        ("arrival_id", read_id_bits(params)),
        ("arrival_dropped", 1),
        ("iotlb_fill", 1),
        ("iotlb_fill_index", _bits(params.iotlb_entries)),
        ("iotlb_fill_level", 2),
        ("iotlb_fill_sectors", 8),
        ("iotlb_evicted", 1),
        ("psc_fill", 1),
        ("psc_fill_index", _bits(params.psc_entries)),
        ("psc_fill_level", 2),
        ("psc_fill_sectors", 8),
        ("psc_evicted", 1),
        ("context_fill", 1),
        ("context_fill_index", _bits(params.context_entries)),
        ("context_evicted", 1),
        ("apply", 2),
        ("killed", slots),
        ("faults_recorded", 2),
    ]
    return tuple(fields)
