"""Bit positions of the packed observation, computed once from `pymodel.spec.observation`."""

from pymodel.spec.observation import observation, payloads
from pymodel.spec.params import IommuParams

__all__ = ["Layout", "ResponseShifts"]


class Layout:
    """Position of every observation field, and of fields relative to the first one of their group (O1)."""

    __slots__ = ("at", "fields", "places")

    def __init__(self, params: IommuParams) -> None:
        self.fields = observation(params)
        self.places: dict[str, list[tuple[int, int]]] = {}
        """(lowest bit, mask) of the fields of each port's payload, above its valid bit."""
        for port, members in payloads(params).items():
            low = 1  # above the valid bit
            places = self.places[port] = []
            for _, width in members:
                places.append((low, (1 << width) - 1))
                low += width
        self.at: dict[str, int] = {}
        position = 0
        for name, width in self.fields:
            self.at[name] = position
            position += width

    def within(self, group: str, name: str) -> int:
        """Position of field `name` counted from field `group`."""
        return self.at[name] - self.at[group]

    def unpack(self, word: int) -> dict[str, int]:
        """All observation fields by name."""
        return {name: (word >> self.at[name]) & ((1 << width) - 1) for name, width in self.fields}

    def payload(self, port: str, word: int) -> tuple[int, ...] | None:
        """Payload of a port from its packed word (valid in bit 0), or None when it is not valid."""
        if not word & 1:
            return None
        return tuple([word >> low & mask for low, mask in self.places[port]])


class ResponseShifts:
    """Where the fields of an answer lie in a packed hit or completion whose bit 0 is `valid` (L5)."""

    __slots__ = ("address", "level", "permissions", "reason", "snoop", "tag")

    def __init__(self, layout: Layout) -> None:
        self.tag = layout.within("hits_valid", "hits_tag")
        self.reason = layout.within("hits_valid", "hits_reason")
        self.address = layout.within("hits_valid", "hits_address")
        self.level = layout.within("hits_valid", "hits_level")
        self.permissions = layout.within("hits_valid", "hits_r")
        self.snoop = layout.within("hits_valid", "hits_snoop")
        assert layout.within("hits_r", "hits_w") == 1  # r, w keep the order of an entry's bits 0 and 1
