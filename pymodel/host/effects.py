"""Effects that the host's agents yield beyond those of `pymodel.effects` (DESIGN D2), and how to perform them.

Whatever happens between two effects of an agent is atomic: it stands for a section under the page-table lock
or the lock of the page. Every effect of this file is answered with None.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from pymodel.effects import Effect, Load, Store, Words, apply, effect_type, run_untimed
from pymodel.memory import PhysMem

__all__ = ["ClearPage", "CopyPage", "HostAgent", "HostEffect", "HostPteChanged", "MmapLock", "MmapUnlock", "PageBusy",
           "PageReused", "by_words", "perform", "run_host"]  # fmt: skip

T = TypeVar("T")


@effect_type
class CopyPage:
    """Copy the 4 KiB of frame `source` to frame `target` (copy_user_highpage)."""

    source: int
    target: int


@effect_type
class ClearPage:
    """Write zero to the 4 KiB of `frame` (clear_user_highpage)."""

    frame: int


@effect_type
class HostPteChanged:
    """The entry of `level` (1: 4K, 2: 2M, 3: 1G) at `hva` of process `mm` went from `old` to `new`; 0 is none."""

    mm: int
    hva: int
    level: int
    old: int
    new: int


@effect_type
class PageReused:
    """The `count` frames from `frame` may belong to somebody else from now on (facts C12, I7)."""

    frame: int
    count: int


@effect_type
class MmapLock:
    """Take mmap_lock of process `mm`; `write` is the exclusive mode."""

    mm: int
    write: bool


@effect_type
class MmapUnlock:
    """Release mmap_lock of process `mm`."""

    mm: int
    write: bool


@effect_type
class PageBusy:
    """Somebody works on the page behind `hva` (migration_entry_wait, folio_lock): let others run, then try again."""

    mm: int
    hva: int


HostEffect: TypeAlias = Effect | CopyPage | ClearPage | HostPteChanged | PageReused | MmapLock | MmapUnlock | PageBusy

HostAgent: TypeAlias = Generator[Any, Any, T]
"""A piece of the host's memory management; besides `HostEffect` it yields what the MMU notifiers yield."""


def by_words(effect: CopyPage | ClearPage) -> Generator[Effect, Any, None]:
    """The same as 64-bit loads and stores, for a driver that wants others to run in between."""
    for offset in range(0, 4096, 8):
        value = 0
        if isinstance(effect, CopyPage):
            value = yield Load((effect.source << 12) + offset)
        target = effect.target if isinstance(effect, CopyPage) else effect.frame
        yield Store((target << 12) + offset, value)


def perform(effect: HostEffect, memory: Words) -> int | None:
    """Do an effect at once. Raises `RuntimeError` for `PageBusy`: at once, nobody else can finish with the page."""
    if isinstance(effect, CopyPage | ClearPage):
        if not isinstance(memory, PhysMem):
            run_untimed(by_words(effect), memory)
            return None
        words = memory.page_words(effect.source << 12) if isinstance(effect, CopyPage) else None
        target = (effect.target if isinstance(effect, CopyPage) else effect.frame) << 12
        if words is None:
            memory.clear_page(target)
        else:
            memory.store_words(target, words)
        return None
    if isinstance(effect, PageBusy):
        raise RuntimeError(f"process {effect.mm} waits for the page at {effect.hva:#x}, and nothing else runs")
    if isinstance(effect, HostPteChanged | PageReused | MmapLock | MmapUnlock):
        return None
    return apply(effect, memory)


def run_host(agent: HostAgent[T], memory: Words, observe: Callable[[Any], None] | None = None) -> T:
    """Run an agent of a host without KVM to its end; `observe` sees each effect before it is done."""
    answer: int | None = None
    while True:
        try:
            effect = agent.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if observe is not None:
            observe(effect)
        answer = perform(effect, memory)
