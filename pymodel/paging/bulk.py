"""Millions of walks per second: a table compiled into flat arrays, walked level by level over whole arrays.

`BulkWalker` decodes every reachable table once, at construction (a snapshot: later stores are not seen), and
keeps one 64-bit word per entry in a flat array. A walk is then one gather per level. The result equals
`pymodel.paging.walk.walk` for every IOVA, reason included.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pymodel.memory import Ranges, WordArray
from pymodel.paging.formats import Kind, PageTableFormat
from pymodel.paging.geometry import width
from pymodel.spec.faults import Reason
from pymodel.spec.second_stage import INTERRUPT_FIRST

__all__ = ["BulkMemory", "BulkWalker", "BulkWalks"]

Int64Array = npt.NDArray[np.int64]

# A compiled entry: the rights, what it is, and in bits 63:12 the page of a leaf or, for a pointer, the
# position of the child table's entry 0 in the flat array. Only in TABLE entries a walk goes on.
_R, _W, _TABLE, _LEAF, _SNP, _RESERVED, _UNREADABLE = 1, 2, 4, 8, 16, 32, 64
_CHUNK = 1 << 15  # walks at a time: temporaries stay in the second-level cache
_BATCH = 64  # tables compiled at a time, for the same reason


class BulkMemory(Protocol):
    """Memory as the compiler needs it; `PhysMem` is one."""

    @property
    def ranges(self) -> Ranges: ...

    def readable(self, address: int) -> bool: ...

    def page_words(self, address: int) -> WordArray | None: ...


class BulkWalks(NamedTuple):
    """Outcomes, one element for each IOVA; all but `reason` is 0 where `ok` is False."""

    ok: npt.NDArray[np.bool_]
    address: WordArray
    """Physical byte address."""
    level: npt.NDArray[np.uint8]
    """Level of the leaf, 0..2."""
    r: npt.NDArray[np.bool_]
    w: npt.NDArray[np.bool_]
    snp: npt.NDArray[np.bool_]
    reason: npt.NDArray[np.uint8]
    """Code of `Reason`, 0 where `ok` is True."""


_ZEROS, _HIDDEN = -1, -2  # tables that share one block: never written, not readable at all


class BulkWalker:
    """One table of depth `levels` at address `root`, as `memory` holds it now."""

    def __init__(
        self,
        memory: BulkMemory,
        format_: PageTableFormat,
        root: int,
        levels: int,
        *,
        scalable: bool = False,
    ) -> None:
        """`scalable` chooses the reason codes. Raises `ValueError` for a root that is no page address."""
        if root % 4096 or not 0 <= root < 1 << 52:
            raise ValueError(f"root must be a page address below 2**52, not {root:#x}")
        self.levels = levels
        self.scalable = scalable
        self._memory = memory
        self._format = format_
        blocks: list[Int64Array] = []
        pages, base = [self._sort_of(root)], 0
        for level in range(levels - 1, -1, -1):
            below = base + 512 * len(pages)
            children: dict[int, int] = {}  # tables of the next level, numbered as they are met
            for first in range(0, len(pages), _BATCH):
                blocks.append(self._compile(pages[first : first + _BATCH], level, below, children))
            pages, base = list(children), below
            if not pages:
                break
        self._flat: Int64Array = np.concatenate(blocks)
        self.tables = base // 512
        """Tables that were compiled; those never written, and those unreadable, count once a level."""

    def _sort_of(self, page: int) -> int:
        """The page, or which shared block stands for it."""
        if self._memory.ranges.contains(page, page + 4096):
            return page if self._memory.page_words(page) is not None else _ZEROS
        return page if any(self._memory.readable(page + 64 * line) for line in range(64)) else _HIDDEN

    def _compile(self, pages: list[int], level: int, below: int, children: dict[int, int]) -> Int64Array:
        """Compiled entries of the tables `pages` at this level.

        The tables they point to are added to `children`; `below` is the position of the first of those.
        """
        raw = np.zeros((len(pages), 512), dtype=np.uint64)
        hidden = np.zeros(raw.shape, dtype=np.bool_)
        for number, page in enumerate(pages):
            if page < 0:
                hidden[number] = page == _HIDDEN
                continue
            words = self._memory.page_words(page)
            if words is not None:
                raw[number] = words
            if not self._memory.ranges.contains(page, page + 4096):
                hidden[number] = np.repeat([not self._memory.readable(page + 64 * i) for i in range(64)], 8)
        entry = self._format.classify_words(raw.reshape(-1), level)
        unreadable = hidden.reshape(-1)
        table = (entry.kind == Kind.TABLE.value) & ~unreadable
        leaf = entry.kind == Kind.LEAF.value
        targets, numbers = np.unique(entry.address[table], return_inverse=True)
        places = [children.setdefault(self._sort_of(page), len(children)) for page in targets.tolist()]
        compiled = entry.r * np.int64(_R) | entry.w * np.int64(_W) | entry.snp * np.int64(_SNP)
        compiled |= table * np.int64(_TABLE) | leaf * np.int64(_LEAF)
        compiled |= (entry.kind == Kind.RESERVED.value) * np.int64(_RESERVED)
        compiled |= np.where(leaf, entry.address.view(np.int64), 0)
        compiled[table] |= (below + 512 * np.array(places, dtype=np.int64)[numbers]) << 12
        compiled[unreadable] = _R | _W | _UNREADABLE  # a walk gets there with the rights it has, and ends
        return compiled

    def walk(self, iovas: npt.NDArray[np.uint64], write: npt.NDArray[np.bool_] | bool = False) -> BulkWalks:
        """Translate an array of IOVAs (bytes); `write` is one flag for all or an array of the same length.

        Raises `ValueError` unless `iovas` is a vector of uint64 and `write` fits it.
        """
        if iovas.ndim != 1 or iovas.dtype != np.uint64:
            raise ValueError(
                f"iovas must be a vector of uint64, not {iovas.ndim} dimensions of {iovas.dtype}"
            )
        count = len(iovas)
        wanted = np.asarray(write)
        if wanted.dtype != np.bool_ or wanted.shape not in ((), (count,)):
            raise ValueError(
                f"write must be one bool or {count} of them, not {wanted.shape} of {wanted.dtype}"
            )
        wanted = np.broadcast_to(wanted, (count,))
        out = BulkWalks(
            np.empty(count, np.bool_),
            np.empty(count, np.uint64),
            np.empty(count, np.uint8),
            np.empty(count, np.bool_),
            np.empty(count, np.bool_),
            np.empty(count, np.bool_),
            np.empty(count, np.uint8),
        )
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            signed = np.ascontiguousarray(iovas[part]).view(np.int64)
            piece = BulkWalks(
                out.ok[part],
                out.address[part],
                out.level[part],
                out.r[part],
                out.w[part],
                out.snp[part],
                out.reason[part],
            )
            self._walk_chunk(signed, wanted[part], piece)
        return out

    def _walk_chunk(self, iova: Int64Array, write: npt.NDArray[np.bool_], out: BulkWalks) -> None:
        """Walk one chunk and write its outcomes to `out`."""
        count = len(iova)
        word = np.zeros(count, np.int64)  # where each walk ended: the entry,
        rights = np.zeros(count, np.int64)  # the low bits of all entries on the way ANDed,
        depth = np.zeros(count, np.uint8)  # and the level
        # Live walks. `who` is None while all of the chunk are alive.
        who: npt.NDArray[np.intp] | None = None
        live, need = iova, np.where(write, np.int64(_W | _TABLE), np.int64(_R | _TABLE))
        beyond = (iova >> width(self.levels)) != 0
        if beyond.any():
            who = np.flatnonzero(~beyond)
            live, need = live[who], need[who]
        have = np.full(len(live), _R | _W | _TABLE, np.int64)
        base: Int64Array | int = 0
        for level in range(self.levels - 1, -1, -1):
            position = live >> (12 + 9 * level)
            position &= 511
            position += base
            entry = self._flat.take(position)
            have &= entry
            goes_on = (have & need) == need
            if level and goes_on.all():
                base = entry >> 12
                continue
            ends = np.flatnonzero(~goes_on)
            at = ends if who is None else who[ends]
            word[at] = entry[ends]
            rights[at] = have[ends]
            depth[at] = level
            on = np.flatnonzero(goes_on)
            if not len(on):
                break
            who = on if who is None else who[on]
            live, need, have, base = live[on], need[on], have[on], entry[on] >> 12
        self._judge(iova, write, word, rights, depth, beyond, out)

    def _judge(
        self,
        iova: Int64Array,
        write: npt.NDArray[np.bool_],
        word: Int64Array,
        rights: Int64Array,
        depth: npt.NDArray[np.uint8],
        beyond: npt.NDArray[np.bool_],
        out: BulkWalks,
    ) -> None:
        """Outcomes from the entries at which the walks ended."""
        granted = np.where(write, rights & _W, rights & _R) != 0
        page = (np.int64(4096) << (9 * depth.astype(np.int64))) - 1
        address = (word & ~np.int64(4095)) | (iova & page)
        interrupt = (address >> 20) == (INTERRUPT_FIRST >> 20)
        ok = ((word & _LEAF) != 0) & granted & ~interrupt
        out.ok[:] = ok
        if ok.all():
            out.address[:] = address.view(np.uint64)
            out.level[:] = depth
            out.r[:] = (rights & _R) != 0
            out.w[:] = (rights & _W) != 0
            out.snp[:] = (word & _SNP) != 0
            out.reason[:] = Reason.NONE
            return
        out.address[:] = np.where(ok, address, 0).view(np.uint64)
        out.level[:] = depth * ok
        out.r[:] = ok & ((rights & _R) != 0)
        out.w[:] = ok & ((rights & _W) != 0)
        out.snp[:] = ok & ((word & _SNP) != 0)
        out.reason[:] = Reason.NONE
        bad = np.flatnonzero(~ok)
        out.reason[bad] = self._reasons(word[bad], write[bad], granted[bad], depth[bad], beyond[bad])

    def _reasons(
        self,
        word: Int64Array,
        write: npt.NDArray[np.bool_],
        granted: npt.NDArray[np.bool_],
        depth: npt.NDArray[np.uint8],
        beyond: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.uint8]:
        """Reasons of failed walks, in the order of `walk`: width, permission, access, reserved, interrupt."""
        scalable = self.scalable

        def code(legacy: Reason, published: Reason) -> np.uint8:
            return np.uint8(published if scalable else legacy)

        denied = np.where(
            write,
            code(Reason.WRITE_DENIED, Reason.SM_WRITE_DENIED),
            code(Reason.READ_DENIED, Reason.SM_READ_DENIED),
        )
        if scalable:
            denied[(word & (_R | _W)) == 0] = Reason.SM_ENTRY_NOT_PRESENT
        at_root = depth == self.levels - 1
        unreadable = np.where(
            at_root,
            code(Reason.CONTEXT_INVALID, Reason.SM_TABLE_ROOT_ACCESS),
            code(Reason.TABLE_ACCESS, Reason.SM_TABLE_ACCESS),
        )
        reason = np.full(len(word), code(Reason.INTERRUPT_ADDRESS, Reason.SM_INTERRUPT_ADDRESS))
        reserved = (word & _RESERVED) != 0
        reason[reserved] = code(Reason.ENTRY_RESERVED, Reason.SM_ENTRY_RESERVED)
        hidden = (word & _UNREADABLE) != 0
        reason[hidden] = unreadable[hidden]
        reason[~granted] = denied[~granted]
        reason[beyond] = code(Reason.ADDRESS_BEYOND_WIDTH, Reason.SM_ADDRESS_BEYOND_WIDTH)
        return reason
