"""Declarations of bit fields: the vocabulary in which every format of `pymodel.spec` is written."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Field", "Format"]


@dataclass(frozen=True)
class Field:
    """A run of bits inside a `Format`."""

    name: str
    lsb: int
    """Lowest bit, counted from 0 over the whole format."""
    width: int
    """Number of bits, at least 1."""
    doc: str = ""
    ignored: bool = False
    """True where hardware must not look at the bits (software may use them)."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.lsb < 0:
            raise ValueError(f"field {self.name}: lsb >= 0 and width >= 1 wanted, not {self.lsb}, {self.width}")

    @property
    def msb(self) -> int:
        """Highest bit of the field."""
        return self.lsb + self.width - 1

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return ((1 << self.width) - 1) << self.lsb


class Format:
    """A fixed-width record of named fields; bits that no field names are reserved and must be zero.

    Raises `ValueError` where fields overlap, leave the record, or share a name.
    """

    def __init__(self, name: str, width: int, *fields: Field, source: str) -> None:
        self.name = name
        self.width = width
        self.source = source
        self._fields: dict[str, Field] = {}
        used = 0
        for field in fields:
            if field.name in self._fields:
                raise ValueError(f"{name}: two fields are called {field.name!r}")
            if field.msb >= width:
                raise ValueError(f"{name}.{field.name}: bit {field.msb} lies outside {width} bits")
            if used & field.mask:
                raise ValueError(f"{name}.{field.name}: bits {field.msb}:{field.lsb} overlap another field")
            used |= field.mask
            self._fields[field.name] = field
        self.reserved = ((1 << width) - 1) & ~used
        """Mask of the bits that must be zero."""

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __repr__(self) -> str:
        return f"Format({self.name!r}, {self.width} bits)"

    def mask(self, *names: str) -> int:
        """The bits of the named fields, in place."""
        total = 0
        for name in names:
            total |= self._fields[name].mask
        return total

    def pack(self, **values: int) -> int:
        """Integer with the named fields set; raises `ValueError` for a value too wide, `KeyError` for a name."""
        word = 0
        for name, value in values.items():
            field = self._fields[name]
            if not 0 <= value < (1 << field.width):
                raise ValueError(f"{self.name}.{name} must fit {field.width} bits, not {value:#x}")
            word |= value << field.lsb
        return word

    def get(self, word: int, name: str) -> int:
        """Value of one field of `word`."""
        field = self._fields[name]
        return (word >> field.lsb) & ((1 << field.width) - 1)

    def unpack(self, word: int) -> dict[str, int]:
        """All fields of `word` by name."""
        return {name: self.get(word, name) for name in self._fields}
