"""Choosing one of several candidates."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Mux, Signal, Value
from amaranth.hdl import Module as _Module

__all__ = ["encode", "index_width", "lowest", "offer_next"]


def index_width(count: int) -> int:
    """Bits of an index 0..count-1, at least 1."""
    return max(1, (count - 1).bit_length())


def lowest(candidates: Value) -> Value:
    """One-hot mask of the lowest bit set; 0 when none is."""
    return candidates & (~candidates + 1)[: len(candidates)]


def encode(one_hot: Value | Sequence[Value]) -> Value:
    """Index of the one bit set; 0 when none is. Combinational, a tree of ORs (no priority)."""
    bits = list(one_hot)
    return Cat(
        Cat(bit for number, bit in enumerate(bits) if number >> position & 1).any() if len(bits) > 1 else Const(0, 1)
        for position in range(index_width(len(bits)))
    )


def offer_next(m: _Module, candidates: Value, pointer: Value) -> Value:
    """One-hot mask of the first candidate at or after index `pointer`, cyclically; 0 when there is none."""
    count = len(candidates)
    at_or_after = Signal(count)
    m.d.comb += at_or_after.eq(candidates & (Const((1 << count) - 1, count) << pointer)[:count])
    return Mux(at_or_after.any(), lowest(at_or_after), lowest(candidates))
