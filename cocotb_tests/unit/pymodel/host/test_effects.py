"""The host's effects: pages copied and cleared at once or word by word, and what cannot be done at once."""

import pytest

from pymodel.effects import Load, Store, run_untimed
from pymodel.host.effects import ClearPage, CopyPage, HostPteChanged, MmapLock, PageBusy, PageReused, by_words, perform
from pymodel.memory import PhysMem, SparseMem


@pytest.mark.parametrize("effect", [CopyPage(1, 2), ClearPage(2), CopyPage(3, 2)])
def test_page_at_once_equals_page_by_words(effect: CopyPage | ClearPage) -> None:
    """Frame 3 was never written, and copies as zeros."""
    at_once, by_word = PhysMem(), PhysMem()
    sparse = SparseMem()
    for memory in (at_once, by_word, sparse):
        for offset in range(0, 4096, 8):
            memory.store(0x1000 + offset, offset + 1)
            memory.store(0x2000 + offset, ~offset & 0xFFFF)
    perform(effect, at_once)
    perform(effect, sparse)
    run_untimed(by_words(effect), by_word)
    words = [[memory.load(0x2000 + offset) for offset in range(0, 4096, 8)] for memory in (at_once, by_word, sparse)]
    assert words[0] == words[1] == words[2]
    expected = 41 if effect == CopyPage(1, 2) else 0
    assert words[0][5] == expected


def test_events_change_nothing_and_memory_effects_answer() -> None:
    memory = SparseMem()
    for event in (HostPteChanged(1, 0, 1, 0, 5), PageReused(1, 1), MmapLock(1, True)):
        assert perform(event, memory) is None
    perform(Store(8, 7), memory)
    assert perform(Load(8), memory) == 7
    assert memory == SparseMem({8: 7})


def test_busy_page_cannot_be_waited_for_at_once() -> None:
    with pytest.raises(RuntimeError, match="waits for the page at 0x5000"):
        perform(PageBusy(1, 0x5000), SparseMem())
