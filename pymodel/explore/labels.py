"""What an effect on memory is called in a schedule."""

from collections.abc import Callable
from dataclasses import dataclass

from pymodel.effects import CompareExchange, FetchAnd, FetchOr, Load, Store

__all__ = ["Names", "label_of"]


def _plain(address: int, value: int) -> str:
    return hex(value)


@dataclass(frozen=True, slots=True)
class Names:
    """What schedules call words of memory, and what is in them; numbers, unless something better is known."""

    word: Callable[[int], str] = hex
    """Name of the 64-bit word at a byte address."""
    value: Callable[[int, int], str] = _plain
    """Text for (byte address, value)."""


def label_of(effect: Load | Store | CompareExchange | FetchOr | FetchAnd, answer: int | None, names: Names) -> str:
    """One row: what was done to which word, and what was found (`answer`, None of a store)."""
    word = names.word(effect.address)
    found = "" if answer is None else names.value(effect.address, answer)
    match effect:
        case Load():
            return f"load {word} -> {found}"
        case Store(address, value):
            return f"store {word} = {names.value(address, value)}"
        case CompareExchange(address, expected, new):
            text = f"cmpxchg {word} {names.value(address, expected)} -> {names.value(address, new)}"
            return text if answer == expected else f"{text} fails, found {found}"
        case FetchOr(_, mask):
            return f"or {word} {mask:#x} (was {found})"
        case FetchAnd(_, mask):
            return f"and {word} {mask:#x} (was {found})"
