"""Hashable pictures of Python state: of values, and of where a generator stands.

A generator's position is its code, the instruction that it stands at, its variables, and what lies on its value
stack (loop iterators, generators that it delegates to). `gc.get_referents` tells all of these.
"""

import gc
from collections.abc import Generator, Hashable, Iterator, Mapping
from enum import Enum
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

__all__ = ["freeze", "places", "position"]

_PLAIN = (int, str, bytes, float, range, Enum, type, CodeType)


def freeze(value: Any) -> Hashable:
    """A hashable picture of a value and all that it refers to; equal pictures mean equal states.

    Objects that appear twice are told apart from two equal ones. A function counts with what it is bound to.
    Raises `TypeError` for something whose state cannot be seen, such as a generator.
    """
    return _freeze(value, {}, {}, False)


def position(generator: Generator[Any, Any, Any], known: Mapping[int, Hashable]) -> Hashable:
    """Where a suspended generator stands; `known` names objects by id, which count by their names."""
    return _freeze(generator, {}, known, True)


def places(shared: Any) -> dict[int, Hashable]:
    """Names, by id, of the objects that `shared` refers to: the way to each, by attributes, keys and indices."""
    found: dict[int, Hashable] = {}
    pending: list[tuple[Any, tuple[Hashable, ...]]] = [(shared, ())]
    while pending:
        value, way = pending.pop()
        if value is None or isinstance(value, _PLAIN) or id(value) in found:
            continue
        if not isinstance(value, tuple | frozenset):
            found[id(value)] = way
        if isinstance(value, dict):
            pending += [(item, (*way, key)) for key, item in value.items() if isinstance(key, int | str | tuple)]
        elif isinstance(value, list | tuple):
            pending += [(item, (*way, index)) for index, item in enumerate(value)]
        elif not isinstance(value, set | frozenset | FunctionType):
            pending += [(getattr(value, name), (*way, name)) for name in _names(value) if hasattr(value, name)]
    return found


def _names(value: Any) -> list[str]:
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*names, *getattr(value, "__dict__", {})]


def _freeze(value: Any, seen: dict[int, int], known: Mapping[int, Hashable], running: bool) -> Hashable:
    if value is None or isinstance(value, _PLAIN):
        return value
    if id(value) in known:
        return ("known", known[id(value)])
    if isinstance(value, tuple) and not value:
        return ()
    if isinstance(value, frozenset | set):
        return frozenset(_freeze(item, {}, known, running) for item in value)
    if not isinstance(value, tuple):  # tuples are values, other things have an identity
        if id(value) in seen:
            return ("again", seen[id(value)])
        seen[id(value)] = len(seen)
    if isinstance(value, tuple | list):
        return (type(value).__name__, *(_freeze(item, seen, known, running) for item in value))
    if isinstance(value, dict):
        items = [item for pair in value.items() for item in pair]
        return ("dict", *(_freeze(item, seen, known, running) for item in items))
    if isinstance(value, CellType):
        return ("cell", _freeze(value.cell_contents, seen, known, running))
    if callable(value) and hasattr(value, "__qualname__"):
        owner = getattr(value, "__self__", None)
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        bound = _freeze(owner, seen, known, running), _freeze(tuple(cells), seen, known, running)
        return ("call", value.__qualname__, *bound)
    if running and isinstance(value, Generator):
        return _standing(value, seen, known)
    if running and isinstance(value, Iterator) and type(value).__module__ == "builtins":
        return (type(value).__name__, _freeze(value.__reduce__()[1:], seen, known, running))
    names = _names(value)
    if (not names and type(value).__module__ == "builtins") or isinstance(value, Generator):
        raise TypeError(f"the state of a {type(value).__name__} cannot be seen: keep it out of a World")
    fields = ((name, _freeze(getattr(value, name), seen, known, running)) for name in names if hasattr(value, name))
    return (type(value).__qualname__, *fields)


def _standing(value: Generator[Any, Any, Any], seen: dict[int, int], known: Mapping[int, Hashable]) -> Hashable:
    frame = value.gi_frame  # type: ignore[attr-defined]
    code = value.gi_code  # type: ignore[attr-defined]
    if frame is None:
        return ("ended", code)
    bound = frame.f_locals  # a copy of the variables; from now on it hangs on the frame
    parts = [
        part
        for part in gc.get_referents(value)
        if part is not bound
        and not isinstance(part, FrameType | CodeType)
        and not (isinstance(part, FunctionType) and part.__code__ is code)
    ]
    return (code, frame.f_lasti, tuple(bound), *(_freeze(part, seen, known, True) for part in parts))
