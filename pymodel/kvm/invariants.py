"""What must hold of the tables at any time, whoever is in the middle of something (facts C12, spte.h).

`check_entries` looks at one root's entries; I1 needs the backing of gfns, I4 only holds when nobody works.
`check_held` looks at what hardware still holds (I7).
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from pymodel.kvm.spte import ADDRESS, LARGE, WRITABLE, pages
from pymodel.kvm.vm import Table, Vm

__all__ = ["Held", "InvariantError", "check", "check_entries", "check_held", "entries_of"]


class InvariantError(AssertionError):
    """An invariant of facts C12 does not hold; the message names it."""


class Held(NamedTuple):
    """Frames that a cache entry, a walk or an access in flight may still reach."""

    who: str
    frame: int
    frames: int = 1


def check_held(held: Iterable[Held], free: Container[int]) -> None:
    """I7: no frame that may be used again (`free`) is held. Raises `InvariantError` with the first."""
    for one in sorted(held):
        for frame in range(one.frame, one.frame + one.frames):
            if frame in free:
                raise InvariantError(f"I7: {one.who} still holds frame {frame:#x}, which may be used again")


def check(vm: Vm, load: Callable[[int], int], *, settled: bool = False) -> None:
    """All roots. Raises `InvariantError`."""
    for root in vm.roots:
        if root.frame not in vm.tables:
            raise InvariantError(f"I3: the root {root.frame:#x} was freed")
        check_entries(vm, root, dict(entries_of(vm, root, load)), settled=settled)


def entries_of(vm: Vm, root: Table, load: Callable[[int], int]) -> Iterator[tuple[tuple[int, int], int]]:
    """((level, gfn), value) of every entry under a root that is not empty."""
    pending = [(root.frame, root.level, 0)]
    while pending:
        frame, level, base = pending.pop()
        for index in range(512):
            value = load((frame << 12) + 8 * index)
            if value != vm.fmt.empty:
                gfn = base + index * pages(level)
                yield (level, gfn), value
                if vm.fmt.is_table(value, level):
                    pending.append(((value & ADDRESS) >> 12, level - 1, gfn))


def check_entries(
    vm: Vm,
    root: Table,
    entries: Mapping[tuple[int, int], int],
    *,
    settled: bool = False,
    backing: Mapping[int, int | None] | None = None,
) -> None:
    """One root. `backing`: the frame behind each gfn that is looked at, None for no frame. Raises `InvariantError`."""
    fmt = vm.fmt
    wanted = backing or {}
    seen: dict[int, tuple[int, int]] = {}
    for (level, gfn), value in entries.items():
        place = f"level {level} gfn {gfn:#x} value {value:#x}"
        if not fmt.is_present(value):
            if value == fmt.frozen and settled:
                raise InvariantError(f"I4: a frozen entry stayed behind, {place}")
            if root.exported and value & WRITABLE and not value & 1:
                raise InvariantError(f"I6: write without read in an exported root, {place}")
            continue
        if root.exported and value >> 11 & 1:
            raise InvariantError(f"I6: bit 11 in an exported root, {place}")
        if fmt.is_table(value, level):
            frame = (value & ADDRESS) >> 12
            if frame in seen or frame not in vm.tables:
                raise InvariantError(f"I3: table reached twice or freed, {place}; before: {seen.get(frame)}")
            seen[frame] = level, gfn
            continue
        _check_leaf(vm, root, level, gfn, value, place)
        for one, behind in wanted.items():
            if gfn <= one < gfn + pages(level) and behind != fmt.pfn(value) + one - gfn:
                wish = "no frame" if behind is None else f"frame {behind:#x}"
                raise InvariantError(f"I1: gfn {one:#x} belongs to {wish}, {place}")
    if root.exported and root.invalid:
        raise InvariantError("I6: an exported root became invalid")


def _check_leaf(vm: Vm, root: Table, level: int, gfn: int, value: int, place: str) -> None:
    fmt = vm.fmt
    span = pages(level)
    if level > 1:
        if fmt.pfn(value) & (span - 1) or not value & LARGE:
            raise InvariantError(f"I2: a huge leaf is not aligned, {place}")
        for slot in () if root.invalid else vm.slots:
            overlap = min(gfn + span, slot.end_gfn) - max(gfn, slot.base_gfn)
            if slot.as_id == root.as_id and 0 < overlap < span:
                raise InvariantError(f"I2: a huge leaf leaves its slot, {place}")
        if vm.private.mixed(gfn, gfn + span) and not vm.mmu_invalidate_in_progress and not root.invalid:
            raise InvariantError(f"I2: a huge leaf over private and shared pages, {place}")
    if value & WRITABLE and not value & fmt.mmu_writable:
        raise InvariantError(f"I5: writable but not MMU-writable, {place}")
    if value & fmt.mmu_writable and not value & fmt.host_writable:
        raise InvariantError(f"I5: MMU-writable but not host-writable, {place}")
