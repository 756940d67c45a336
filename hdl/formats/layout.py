"""Layouts derived from `pymodel.spec` declarations."""

from amaranth.hdl import Const, Value
from amaranth.lib import data

from pymodel.spec.fields import Format

__all__ = ["reserved", "view"]


def view(record: Format, bits: Value) -> data.View:
    """`bits` seen through the record's fields."""
    layout = data.FlexibleLayout(record.width, {field.name: data.Field(field.width, field.lsb) for field in record})
    return data.View(layout, bits)


def reserved(record: Format, bits: Value, *, haw: int, address: str = "") -> Value:
    """1 where a bit outside the record's fields is set, or a bit at or above `haw` of its `address` field."""
    mask = record.reserved
    if address:
        field = record[address]
        mask |= field.mask & ~((1 << haw) - 1)
    return (bits & Const(mask, record.width)).any()
