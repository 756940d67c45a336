"""What must hold of the tables at any time, whoever is in the middle of something (facts C12, spte.h).

`check_entries` looks at one root's entries; I1 needs the backing of a gfn, I4 only holds when nobody works.
"""

from collections.abc import Callable, Iterator, Mapping

from pymodel.kvm.spte import ADDRESS, LARGE, WRITABLE, pages
from pymodel.kvm.vm import Table, Vm

__all__ = ["InvariantError", "check", "check_entries", "entries_of"]


class InvariantError(AssertionError):
    """An invariant of facts C12 does not hold; the message names it."""


def check(vm: Vm, load: Callable[[int], int], *, settled: bool = False) -> None:
    """All roots. Raises `InvariantError`."""
    for root in vm.roots:
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
    backing: Callable[[int], int | None] | None = None,
) -> None:
    """One root. `backing`: the frame behind a gfn, None where anything is right. Raises `InvariantError`."""
    fmt = vm.fmt
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
        wanted = backing(gfn) if backing is not None else None
        if wanted is not None and wanted != fmt.pfn(value):
            raise InvariantError(f"I1: mapped to another frame than {wanted:#x}, {place}")
    if root.exported and root.invalid:
        raise InvariantError("I6: an exported root became invalid")


def _check_leaf(vm: Vm, root: Table, level: int, gfn: int, value: int, place: str) -> None:
    fmt = vm.fmt
    span = pages(level)
    if level > 1:
        if fmt.pfn(value) & (span - 1) or not value & LARGE:
            raise InvariantError(f"I2: a huge leaf is not aligned, {place}")
        slot = None if root.invalid else vm.slots.find(gfn, root.as_id)
        if slot is not None and gfn + span > slot.end_gfn:
            raise InvariantError(f"I2: a huge leaf leaves its slot, {place}")
        if vm.private.mixed(gfn, gfn + span) and not vm.mmu_invalidate_in_progress and not root.invalid:
            raise InvariantError(f"I2: a huge leaf over private and shared pages, {place}")
    if value & WRITABLE and not value & fmt.mmu_writable:
        raise InvariantError(f"I5: writable but not MMU-writable, {place}")
    if value & fmt.mmu_writable and not value & fmt.host_writable:
        raise InvariantError(f"I5: MMU-writable but not host-writable, {place}")
