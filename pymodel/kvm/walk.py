"""The TDP iterator: pre-order over the entries of a range (arch/x86/kvm/mmu/tdp_iter.c)."""

from collections.abc import Generator
from typing import Any

from pymodel.effects import Load
from pymodel.kvm.effects import KvmEffect
from pymodel.kvm.spte import ADDRESS, LARGE
from pymodel.kvm.vm import Table, Vm

__all__ = ["TdpIter"]


class TdpIter:
    """for_each_tdp_pte_min_level: `while (yield from it.step()): ...` visits every entry, empty ones too.

    An entry that became a table while it was looked at is descended into; one that was zapped is not, for
    the entry is read again before the step down.
    """

    __slots__ = ("_started", "_tables", "address", "as_id", "end", "gfn", "level", "live", "min_level", "next_gfn",
                 "old", "root", "top", "yielded_gfn")  # fmt: skip

    def __init__(self, vm: Vm, root: Table, start: int, end: int, min_level: int = 1) -> None:
        self.root = root
        self.as_id = root.as_id
        self.live = vm.fmt.live
        self.min_level = min_level
        self.next_gfn = start
        self.end = end
        self.top = self.level = root.level
        self._tables = {root.level: root.frame << 12}
        self.gfn = 0
        self.address = 0
        self.old = 0
        self._started = False
        self.yielded_gfn = -1
        """`next_gfn` at the last `restart`: the lock is not given up again before the walk got further."""

    def restart(self) -> None:
        """tdp_iter_restart: the lock was given up; walk down from the root again to where we were."""
        self.level = self.top
        self._started = False
        self.yielded_gfn = self.next_gfn

    def step(self) -> Generator[KvmEffect, Any, bool]:
        """Go to the next entry (the first at the first call); False at the end of the range."""
        level = self.level
        if self._started:
            down = False
            if level > self.min_level:
                old = self.old = yield Load(self.address)
                down = bool(old & self.live) and not old & LARGE
            if down:
                level = self.level = level - 1
                self._tables[level] = old & ADDRESS
            else:
                shift = 9 * level - 9
                gfn = self.gfn
                while gfn >> shift & 511 == 511:
                    if level == self.top:
                        return False
                    level = self.level = level + 1
                    shift += 9
                    gfn = self.gfn = gfn >> shift << shift
                self.next_gfn = gfn + (1 << shift)
        self._started = True
        shift = 9 * level - 9
        gfn = self.gfn = self.next_gfn >> shift << shift
        if gfn >= self.end:
            return False
        address = self.address = self._tables[level] + 8 * (gfn >> shift & 511)
        self.old = yield Load(address)
        return True
