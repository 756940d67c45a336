"""Compare a declared format with a table of bit positions, in both directions."""

from collections.abc import Mapping

from pymodel.spec.fields import Format

__all__ = ["check"]


def check(format_: Format, bits: int, fields: Mapping[str, tuple[int, int]], reserved: int) -> None:
    """`fields`: name to (highest bit, lowest bit), as data sheets write them; `reserved`: all other bits."""
    assert format_.width == bits
    assert {field.name for field in format_} == set(fields)
    for name, (msb, lsb) in fields.items():
        size = msb - lsb + 1
        full = (1 << size) - 1
        assert format_.pack(**{name: full}) == full << lsb, name
        assert format_.pack(**{name: 1}) == 1 << lsb, name
        assert format_.get(1 << msb, name) == 1 << (size - 1), name
        assert format_.unpack(full << lsb) == {**dict.fromkeys(fields, 0), name: full}, name
        assert format_.mask(name) == full << lsb, name
    assert format_.reserved == reserved, f"{format_.name}: {format_.reserved:#x}"
