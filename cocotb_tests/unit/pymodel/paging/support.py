"""A table to edit, a way to run agents step by step, and slow second answers to compare with."""

import random
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from pymodel.effects import Agent, Effect, apply, run_untimed
from pymodel.memory import PhysMem
from pymodel.paging.bulk import BulkWalker
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import PAGE, span
from pymodel.paging.table import PagePool, PageTable, Update
from pymodel.paging.update import map_range, unmap_range
from pymodel.paging.walk import walk

T = TypeVar("T")

K4, M2, G1 = 1 << 12, 1 << 21, 1 << 30
POOL_START = 0x1_0000_0000

Answer = tuple[int, bool, bool] | None
"""Physical address, r, w of a page, or None where nothing is mapped."""


class Bench:
    """Memory, a pool, an empty table, and the updates whose pages are still owed to the pool."""

    def __init__(self, levels: int = 4, format_: SecondStage | None = None, pages: int = 4096) -> None:
        self.memory = PhysMem()
        self.pool = PagePool(POOL_START, POOL_START + pages * PAGE, self.memory.clear_page)
        self.format = format_ or SecondStage()
        self.table = PageTable(self.format, self.pool.allocate(), levels, self.pool)

    def run(self, agent: Agent[T]) -> T:
        """All effects at once."""
        return run_untimed(agent, self.memory)

    def step(
        self,
        agent: Agent[T],
        before: Callable[[Effect], None] = lambda effect: None,
        after: Callable[[Effect], None] = lambda effect: None,
    ) -> T:
        """One effect at a time, with something done before and after each."""
        answer: int | None = None
        while True:
            try:
                effect = agent.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            before(effect)
            answer = apply(effect, self.memory)
            after(effect)

    def settle(self, update: Update) -> Update:
        """The invalidations completed: the tables go back."""
        for page in update.pages:
            self.pool.free(page)
        return update

    def map(self, iova: int, address: int, length: int, **rights: bool | int) -> Update:
        """Map and settle."""
        return self.settle(self.run(map_range(self.table, iova, address, length, **rights)))  # type: ignore[arg-type]

    def unmap(self, iova: int, length: int) -> Update:
        """Unmap and settle."""
        return self.settle(self.run(unmap_range(self.table, iova, length)))

    def answer(self, iova: int) -> Answer:
        """What a device may do at `iova`, by the slow walk."""
        for write in (False, True):
            outcome = walk(self.memory, self.format, self.table.root, self.table.levels, iova, write)
            if outcome.translation:
                return outcome.translation.address, outcome.translation.r, outcome.translation.w
        return None

    def level(self, iova: int) -> int | None:
        """Level of the leaf that maps `iova`."""
        outcome = walk(self.memory, self.format, self.table.root, self.table.levels, iova, False)
        return outcome.translation.level if outcome.translation else None

    def answers(self, start: int, pages: int) -> list[Answer]:
        """`answer` for many consecutive pages, by the bulk walker."""
        walker = BulkWalker(self.memory, self.format, self.table.root, self.table.levels)
        iovas = np.arange(pages, dtype=np.uint64) * np.uint64(PAGE) + np.uint64(start)
        reads, writes = walker.walk(iovas, False), walker.walk(iovas, True)
        found: list[Answer] = []
        for position in range(pages):
            best = reads if reads.ok[position] else writes
            if best.ok[position]:
                found.append((int(best.address[position]), bool(best.r[position]), bool(best.w[position])))
            else:
                found.append(None)
        return found

    def assert_no_table_leaks(self, length: int | None = None) -> None:
        """Everything unmapped: only the root is in use, and it is empty."""
        update = self.unmap(0, length or span(self.table.levels))
        assert update.status.name == "DONE"
        assert self.pool.in_use == {self.table.root}
        words = self.memory.page_words(self.table.root)
        assert words is None or not words.any()


def interesting_addresses(level: int, haw: int, rng: random.Random) -> list[int]:
    """Page addresses at a level: 0, the last one below 2**haw, and random ones."""
    size = span(level)
    last = (1 << haw) - size
    return [0, last, *(rng.randrange(1 << haw) & -size for _ in range(4))]
