"""KSM: equal pages become one, read-only; a write makes it the process's own again."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.effects import Load
from pymodel.host import entries
from pymodel.host.effects import HostAgent, HostPteChanged, perform, run_host
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, unpin
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HostKernel
from pymodel.host.ksm import merge_page, scan
from pymodel.host.madvise import mergeable, page_out, unmergeable
from pymodel.host.mapping import exit_process
from pymodel.host.migrate import Moved, move_page
from pymodel.host.notifier import MmuEvent
from pymodel.host.reclaim import reclaim


def merged(kernel: HostKernel = HOST_6_12, count: int = 3) -> Setting:
    """`count` equal pages, merged into one."""
    setting = Setting(kernel)
    setting.map(4 * PAGE)
    for page in range(count):
        setting.put(A + page * PAGE, 5)
    setting.run(mergeable(setting.mm, A, 4 * PAGE))
    found = setting.run(scan(setting.host, [(setting.mm, A + page * PAGE) for page in range(count)]))
    assert found == count - 1
    return setting


def to_next_change(agent: HostAgent[Any], setting: Setting) -> None:
    """Run an agent until it has changed an entry."""
    answer: int | None = None
    while True:
        effect = agent.send(answer)
        answer = perform(effect, setting.memory)
        if isinstance(effect, HostPteChanged):
            return


@pytest.mark.parametrize("kernel", [HOST_6_1, HOST_6_12])
def test_every_step_is_announced_over_its_page(kernel: HostKernel) -> None:
    """Recorded (ksm): the second of two twins is write-protected; all others are write-protected, then replaced."""
    setting = merged(kernel)
    middle = ["change_pte"] if kernel.has_change_pte else []
    steps = [(1, 1), (0, 2), (2, 2)]
    wanted = [(name, page * PAGE) for page, times in steps for _ in range(times) for name in ["start", *middle, "end"]]
    assert [(name, start) for name, start, *_ in setting.calls] == wanted
    assert {event for _, _, _, event in setting.calls} <= {MmuEvent.CLEAR, -1}


def test_one_page_is_left_and_it_is_clean_and_read_only() -> None:
    setting = merged()
    folio = setting.folio(A)
    assert folio is setting.folio(A + PAGE) is setting.folio(A + 2 * PAGE)
    assert folio.ksm
    assert [setting.mm.table.value(1, A + page * PAGE) & 0xFFF for page in range(3)] == [0x025, 0x825, 0x025]
    assert len(setting.reused) == 2
    assert [setting.get(A + page * PAGE) for page in range(3)] == [5, 5, 5]
    balance(setting.host)


def test_write_copies_even_for_the_last_user() -> None:
    setting = merged()
    setting.put(A, 6)
    setting.put(A + PAGE, 7)
    shared = setting.folio(A + 2 * PAGE)
    setting.put(A + 2 * PAGE, 8)
    assert setting.folio(A + 2 * PAGE) is not shared
    assert [setting.get(A + page * PAGE) for page in range(3)] == [6, 7, 8]
    assert not setting.host.ksm_pages
    balance(setting.host)


def test_further_page_joins_what_is_shared() -> None:
    setting = merged()
    setting.put(A + 3 * PAGE, 5)
    assert setting.run(scan(setting.host, [(setting.mm, A + 3 * PAGE)])) == 1
    assert setting.folio(A + 3 * PAGE) is setting.folio(A)
    assert setting.run(scan(setting.host, [(setting.mm, A + 3 * PAGE)])) == 0


def test_page_that_changes_under_the_comparison_is_not_merged() -> None:
    """The pages are compared once this one is write-protected, so that a write before that is seen."""
    setting = merged()
    setting.put(A + 3 * PAGE, 5)
    agent = merge_page(setting.mm, A + 3 * PAGE, setting.folio(A))
    setting.put(A + 3 * PAGE, 6)
    assert not setting.run(agent)
    assert setting.get(A + 3 * PAGE) == 6
    setting.put(A + 3 * PAGE, 5)
    assert setting.run(merge_page(setting.mm, A + 3 * PAGE, setting.folio(A)))
    balance(setting.host)


@pytest.mark.parametrize("kernel", [HOST_6_1, HOST_6_12])
def test_unmerged_page_is_writable_before_6_2_only(kernel: HostKernel) -> None:
    """break_ksm: a write fault, later FAULT_FLAG_UNSHARE."""
    setting = merged(kernel)
    setting.run(unmergeable(setting.mm, A, 4 * PAGE))
    entry = setting.mm.table.lookup(A)
    assert entry is not None
    assert entry.writable is (kernel is HOST_6_1)
    setting.put(A, 6)
    assert ([setting.get(A), setting.get(A + PAGE)], setting.calls) == ([6, 5], [])
    balance(setting.host)


def test_merge_looks_at_no_other_page_than_its_own_and_its_twin() -> None:
    """Linear: 64 pages that differ, then a shared one, cost the same loads each."""
    setting = Setting()
    setting.map(64 * PAGE)
    for page in range(64):
        setting.put(A + page * PAGE, page + 1)
    setting.run(mergeable(setting.mm, A, 64 * PAGE))
    loads: list[object] = []
    places = [(setting.mm, A + page * PAGE) for page in range(64)]
    run_host(scan(setting.host, places), setting.memory,
             lambda effect: loads.append(effect) if isinstance(effect, Load) else None)  # fmt: skip
    assert len(loads) == 64 * 512


def test_writer_between_write_protection_and_sharing_gets_a_copy() -> None:
    """The reference that KSM holds keeps the page from being reused."""
    setting = merged(count=2)
    setting.put(A + 2 * PAGE, 9)
    setting.put(A + 3 * PAGE, 9)
    agent = scan(setting.host, [(setting.mm, A + 2 * PAGE), (setting.mm, A + 3 * PAGE)])
    to_next_change(agent, setting)
    setting.run(setting.mm.invalidate_end(A + 3 * PAGE, A + 4 * PAGE, MmuEvent.CLEAR))
    setting.put(A + 3 * PAGE, 10)
    run_host(agent, setting.memory)
    assert (setting.get(A + 2 * PAGE), setting.get(A + 3 * PAGE)) == (9, 10)
    assert setting.host.ksm_pages.keys() == {setting.folio(A)}
    balance(setting.host)


def test_different_unmergeable_or_foreign_pages_stay() -> None:
    setting = Setting()
    setting.map(4 * PAGE)
    setting.put(A, 5)
    setting.put(A + PAGE, 6)
    places = [(setting.mm, A), (setting.mm, A + PAGE), (setting.mm, A + 2 * PAGE)]
    assert setting.run(scan(setting.host, places)) == 0
    setting.run(mergeable(setting.mm, A, 4 * PAGE))
    assert setting.run(scan(setting.host, places)) == 0
    balance(setting.host)


def test_pages_that_a_child_maps_too_are_merged_in_this_process_alone() -> None:
    """write_protect_page compares references with mappings, however many: a fork does not keep pages apart."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    for page in range(2):
        setting.put(A + page * PAGE, 5)
    child = setting.run(fork(setting.mm))
    places = [(setting.mm, A), (setting.mm, A + PAGE)]
    assert setting.run(scan(setting.host, places)) == 1
    assert setting.folio(A) is setting.folio(A + PAGE) is setting.folio(A + PAGE, child)
    assert setting.folio(A, child) is not setting.folio(A)
    setting.put(A + PAGE, 6, child)
    assert [setting.get(A), setting.get(A + PAGE), setting.get(A + PAGE, child)] == [5, 5, 6]
    setting.run(exit_process(child))
    balance(setting.host)


def test_pages_of_a_huge_page_are_merged_in_the_scan_after_it_is_split() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.put(A + PAGE, 5)
    setting.run(mergeable(setting.mm, A, HUGE))
    places = [(setting.mm, A), (setting.mm, A + PAGE)]
    assert setting.run(scan(setting.host, places)) == 0
    assert setting.level(A) == 1
    assert {call[1:] for call in setting.calls} == {(0, HUGE, MmuEvent.CLEAR)}
    assert setting.run(scan(setting.host, places)) == 1
    assert setting.folio(A) is setting.folio(A + PAGE)
    balance(setting.host)


def test_shared_page_that_goes_while_the_huge_page_is_split_is_not_merged_into() -> None:
    setting = merged(count=2)
    setting.map(HUGE, "thp", A + HUGE)
    setting.put(A + HUGE, 5)
    setting.run(mergeable(setting.mm, A + HUGE, HUGE))
    agent = scan(setting.host, [(setting.mm, A + HUGE)])
    to_next_change(agent, setting)
    for page in range(2):
        setting.put(A + page * PAGE, 6)
    assert not setting.host.ksm_pages
    assert run_host(agent, setting.memory) == 0
    assert setting.get(A + HUGE) == 5
    balance(setting.host)


def test_huge_page_without_a_twin_is_left_whole() -> None:
    """try_to_merge_one_page splits; nobody splits a page to look at it."""
    setting = Setting()
    setting.map(2 * HUGE, "thp")
    setting.put(A, 5)
    setting.put(A + HUGE, 5)
    setting.put(A + PAGE, 6)
    setting.run(mergeable(setting.mm, A, 2 * HUGE))
    assert setting.run(scan(setting.host, [(setting.mm, A + PAGE), (setting.mm, A)])) == 0
    assert (setting.level(A), setting.calls) == (2, [])
    assert setting.run(scan(setting.host, [(setting.mm, A), (setting.mm, A + HUGE)])) == 1
    assert setting.folio(A) is setting.folio(A + HUGE)
    balance(setting.host)


def test_page_whose_twin_is_in_use_is_its_process_s_own_again() -> None:
    """try_to_merge_two_pages: where the second step fails, break_cow undoes the first."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    for page in range(2):
        setting.put(A + page * PAGE, 5)
    pinned = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(scan(setting.host, [(setting.mm, A), (setting.mm, A + PAGE)])) == 0
    assert not setting.host.ksm_pages
    assert setting.folio(A) is pinned
    setting.run(unpin(setting.mm, pinned))
    balance(setting.host)


def test_unmergeable_gives_each_its_own() -> None:
    setting = merged()
    setting.run(unmergeable(setting.mm, A, 4 * PAGE))
    assert len({setting.folio(A + page * PAGE) for page in range(3)}) == 3
    assert [setting.get(A + page * PAGE) for page in range(3)] == [5, 5, 5]
    assert not setting.host.ksm_pages
    balance(setting.host)


def test_shared_page_moves_and_goes_to_swap() -> None:
    setting = merged()
    assert setting.run(move_page(setting.mm, A + PAGE)) is Moved.DONE
    folio = setting.folio(A)
    assert (list(setting.host.ksm_pages), folio.ksm) == ([folio], True)
    assert setting.run(reclaim(setting.host, [folio], ages=False)) == 1
    assert entries.is_swap(setting.mm.table.value(1, A))
    setting.put(A, 9)
    assert [setting.get(A + page * PAGE) for page in range(3)] == [9, 5, 5]
    balance(setting.host)


def test_page_that_is_clean_and_read_only_but_one_process_s_own_is_changed_too() -> None:
    """Exclusive after a swap-in by a read: write_protect_page takes that away, and says so."""
    setting = Setting(HOST_6_1)
    setting.map(2 * PAGE)
    for page in range(2):
        setting.put(A + page * PAGE, 5)
    setting.run(page_out(setting.mm, A, 2 * PAGE))
    assert [setting.get(A + page * PAGE) for page in range(2)] == [5, 5]
    assert setting.folio(A).exclusive
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    assert setting.run(scan(setting.host, [(setting.mm, A), (setting.mm, A + PAGE)])) == 1
    assert [name for name, *_ in setting.calls] == ["start", "change_pte", "end"] * 3
    balance(setting.host)


def test_page_that_changed_since_it_was_seen_is_not_shared() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    for page in range(2):
        setting.put(A + page * PAGE, 5)
    second = setting.folio(A + PAGE).frame << 12
    changed: list[object] = []

    def interfere(effect: object) -> None:
        if effect == Load(second) and not changed:
            changed.append(effect)
            setting.put(A, 6)

    places = [(setting.mm, A), (setting.mm, A + PAGE)]
    assert run_host(scan(setting.host, places), setting.memory, interfere) == 0
    assert not setting.host.ksm_pages
    balance(setting.host)


def test_content_is_shared_anew_after_the_last_user_left() -> None:
    setting = merged()
    for page in range(3):
        setting.put(A + page * PAGE, 6)
    assert setting.run(scan(setting.host, [(setting.mm, A + page * PAGE) for page in range(3)])) == 2
    for page in range(3):
        setting.put(A + page * PAGE, 5)
    assert setting.run(scan(setting.host, [(setting.mm, A + page * PAGE) for page in range(3)])) == 2
    assert [setting.get(A + page * PAGE) for page in range(3)] == [5, 5, 5]
    balance(setting.host)


def test_further_page_joins_a_shared_page_that_moved() -> None:
    setting = merged()
    setting.run(move_page(setting.mm, A))
    setting.put(A + 3 * PAGE, 5)
    assert setting.run(scan(setting.host, [(setting.mm, A + 3 * PAGE)])) == 1
    assert setting.folio(A + 3 * PAGE) is setting.folio(A)
    balance(setting.host)
