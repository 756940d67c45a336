"""What an effect on memory is called in a schedule."""

from collections.abc import Callable
from typing import TypeAlias

from pymodel.effects import CompareExchange, FetchAnd, FetchOr, Load, Store

__all__ = ["Namer", "label_of"]

Namer: TypeAlias = Callable[[int], str]
"""Name of the word at a byte address."""


def label_of(effect: Load | Store | CompareExchange | FetchOr | FetchAnd, answer: int | None, name: Namer) -> str:
    """One row: what was done to which word, and what was found."""
    match effect:
        case Load(address):
            return f"load {name(address)} -> {answer:#x}"
        case Store(address, value):
            return f"store {name(address)} = {value:#x}"
        case CompareExchange(address, expected, new):
            found = "" if answer == expected else f" fails, found {answer:#x}"
            return f"cmpxchg {name(address)} {expected:#x} -> {new:#x}{found}"
        case FetchOr(address, mask):
            return f"or {name(address)} {mask:#x} (was {answer:#x})"
        case FetchAnd(address, mask):
            return f"and {name(address)} {mask:#x} (was {answer:#x})"
