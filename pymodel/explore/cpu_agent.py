"""The CPU's nested walk and TLB as a participant: what a missing TLB flush does to a guest (facts C10, F1).

A vCPU's agent yields `GuestAccess`. Its walk takes one step for each entry that is read, which also sets A and
D there as hardware does, with the entry it has read (one locked operation); the last step is the access itself.
It may start at any cached pointer, use any cached leaf that grants what is asked, or walk from the root: that an
entry may have been evicted shows in the freedom not to use it. A write through a leaf cached without D walks.

`TlbFlush` of KVM takes one step: the vCPUs have left guest mode by then, so that walks begin anew and no access
that used an old translation is on its way (facts C10: a flush request waits for that).
"""

from typing import Any, NamedTuple

from pymodel.effects import effect_type
from pymodel.explore.labels import Names
from pymodel.explore.unit import Pending, Resource, UnitMove
from pymodel.kvm.effects import TlbFlush
from pymodel.kvm.hardware import FETCH, FINAL, READ, WRITE
from pymodel.kvm.spte import ADDRESS, LARGE, WRITABLE, SpteFormat, pages
from pymodel.memory import SparseMem

__all__ = ["CpuAgent", "CpuState", "GuestAccess", "Translation", "Violation"]

_PRESENT, _WRITE, _USER, _RESERVED, _FETCH = 1, 2, 4, 8, 16


@effect_type
class GuestAccess:
    """A guest's access to the 64-bit word at `gpa`, through the table whose root is at byte address `root`.

    `kind` is READ, WRITE or FETCH of `pymodel.kvm.hardware`. A read and a fetch are answered with the word, a write
    of `value` with None, a refused access with a `Violation`.
    """

    root: int
    levels: int
    gpa: int
    kind: str = READ
    value: int = 0


class Violation(NamedTuple):
    """A nested page fault: `error` as `pymodel.kvm.fault.page_fault` takes it."""

    error: int


class Translation(NamedTuple):
    """A cached pointer or leaf of one vCPU, also what a walk holds."""

    who: int
    root: int
    level: int
    """Of the entry that was read; 1 is a 4 KiB entry."""
    gfn: int
    """First gfn of its span."""
    address: int
    """Byte address of the page or of the next table."""
    leaf: bool
    write: bool
    execute: bool
    dirty: bool = True


class CpuState(NamedTuple):
    """All of it."""

    walks: tuple[Translation | None, ...]
    """By agent."""
    tlb: frozenset[Translation] = frozenset()


class CpuAgent:
    """See the module; a `Unit` of the explorer. Every agent that accesses is a vCPU with a TLB of its own."""

    def __init__(self, fmt: SpteFormat, names: Names | None = None) -> None:
        """`names`: of words of memory, for schedules."""
        self.name = "cpu"
        self._names = names or Names()
        self.threads: tuple[str, ...] = ()
        self._format = fmt
        self._agents = 0

    def start(self, agents: int) -> CpuState:
        """See `Unit`."""
        self._agents = agents
        return CpuState((None,) * agents)

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, GuestAccess | TlbFlush)

    def own_moves(self, which: int, state: CpuState, memory: SparseMem) -> Pending:
        """See `Unit`; there are no threads."""
        raise NotImplementedError

    def own_position(self, which: int, state: CpuState) -> int:
        """See `Unit`; there are no threads."""
        raise NotImplementedError

    def agent_moves(self, who: int, effect: Any, state: CpuState, memory: SparseMem) -> Pending:
        """See `Unit`."""
        if isinstance(effect, TlbFlush):
            return self._flush(effect, state)
        mine: frozenset[Resource] = frozenset({(self.name, who)})
        held = state.walks[who]
        if held is not None and held.leaf:
            word, move = self._touch(who, effect, state, memory, held)
            return Pending(mine | {word}, mine | ({word} if effect.kind == WRITE else set()), (move,))
        reads: set[Resource] = set(mine)
        writes: set[Resource] = set(mine)
        moves: list[UnitMove] = []
        for start in [held] if held is not None else self._starts(who, effect, state):
            if start.leaf:
                word, move = self._touch(who, effect, state, memory, start)
                if effect.kind == WRITE:
                    writes.add(word)
            else:
                word, move = self._read(who, effect, state, memory, start)
                writes |= {address for address, _ in move.stores}
            reads.add(word)
            moves.append(move)
        return Pending(frozenset(reads), frozenset(writes), tuple(dict.fromkeys(moves)))

    def _starts(self, who: int, effect: GuestAccess, state: CpuState) -> list[Translation]:
        gfn = effect.gpa >> 12
        root = Translation(who, effect.root, effect.levels + 1, 0, effect.root, False, True, True)
        cached = [
            one
            for one in state.tlb
            if (one.who, one.root, one.gfn) == (who, effect.root, gfn & -pages(one.level))
            and (not one.leaf or (_granted(one, effect.kind) and (one.dirty or effect.kind != WRITE)))
        ]
        return [root, *sorted(cached)]

    def _read(
        self, who: int, effect: GuestAccess, state: CpuState, memory: SparseMem, pointer: Translation
    ) -> tuple[int, UnitMove]:
        """Read the entry below `pointer`: its address, and what comes of it."""
        fmt, level = self._format, pointer.level - 1
        gfn = effect.gpa >> 12
        address = pointer.address + 8 * (gfn >> 9 * (level - 1) & 511)
        entry = memory.load(address)
        label = f"CPU walk: {self._names.word(address)} = {self._names.value(address, entry)}"
        if fmt.is_mmio(entry):
            return address, self._refuse(who, effect, state, _RESERVED, label)
        if not entry & fmt.hw_present:
            return address, self._refuse(who, effect, state, 0, label)
        leaf = level == 1 or bool(entry & LARGE)
        found = Translation(
            who,
            effect.root,
            level,
            gfn & -pages(level),
            entry & ADDRESS,
            leaf,
            pointer.write and bool(entry & WRITABLE),
            pointer.execute and fmt.allows(entry, write=False, execute=True),
        )
        if leaf and not _granted(found, effect.kind):
            return address, self._refuse(who, effect, state, _PRESENT, label)
        stores: tuple[tuple[int, int], ...] = ()
        if fmt.ad_enabled:
            wanted = fmt.accessed | (fmt.dirty if leaf and effect.kind == WRITE else 0)
            if wanted & ~entry:
                stores = ((address, entry | wanted),)
                label += ", sets " + " and ".join(self._letters(wanted & ~entry))
            if leaf:
                found = found._replace(dirty=bool((entry | wanted) & fmt.dirty))
        state = state._replace(tlb=state.tlb | {found})
        return address, UnitMove(label, _walking(state, who, found), stores)

    def _touch(
        self, who: int, effect: GuestAccess, state: CpuState, memory: SparseMem, leaf: Translation
    ) -> tuple[int, UnitMove]:
        word = (leaf.address + (effect.gpa & (pages(leaf.level) << 12) - 1)) & ~7
        state = _walking(state, who, None)
        if effect.kind == WRITE:
            label = f"CPU writes {self._names.word(word)} = {self._names.value(word, effect.value)}"
            return word, UnitMove(label, state, ((word, effect.value),), None)
        value = memory.load(word)
        return word, UnitMove(
            f"CPU reads {self._names.word(word)} -> {self._names.value(word, value)}", state, (), value
        )

    def _letters(self, bits: int) -> list[str]:
        return [letter for letter, mask in (("A", self._format.accessed), ("D", self._format.dirty)) if bits & mask]

    def _refuse(self, who: int, effect: GuestAccess, state: CpuState, why: int, label: str) -> UnitMove:
        error = FINAL | _USER | why | {READ: 0, WRITE: _WRITE, FETCH: _FETCH}[effect.kind]
        return UnitMove(f"exits: {label}", _walking(state, who, None), answer=Violation(error))

    def _flush(self, effect: TlbFlush, state: CpuState) -> Pending:
        everyone: frozenset[Resource] = frozenset((self.name, who) for who in range(self._agents))
        if effect.pages is None:
            kept: frozenset[Translation] = frozenset()
            label = "TLB flush: everything"
        else:
            first, end = effect.gfn, effect.gfn + effect.pages
            kept = frozenset(one for one in state.tlb if one.gfn >= end or one.gfn + pages(one.level) <= first)
            label = f"TLB flush: gfn {first:#x}..{end - 1:#x}"
        after = CpuState((None,) * self._agents, kept)
        return Pending(everyone, everyone, (UnitMove(label, after, answer=None),))


def _granted(found: Translation, kind: str) -> bool:
    return found.write if kind == WRITE else found.execute if kind == FETCH else True


def _walking(state: CpuState, who: int, walk: Translation | None) -> CpuState:
    return state._replace(walks=(*state.walks[:who], walk, *state.walks[who + 1 :]))
