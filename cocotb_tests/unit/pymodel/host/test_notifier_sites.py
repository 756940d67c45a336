"""Every place of the host that calls the notifiers is held against a recording, which finds what is wrong with it."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pymodel.host
from cocotb_tests.unit.pymodel.host.test_recordings import played
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process

SOURCES = Path(pymodel.host.__file__).parent
CALLS = ("invalidate_start", "change_pte", "clear_flush_young", "clear_young", "test_young")
SHOWN_BY = {
    "collapse._replace": "6.1/random_lazy",
    "cow.copy_page": "6.1/fault_4k",
    "fork._copy_mapping": "6.12/fork_4k",
    "hugetlb._write": "6.1/random_lazy",
    "ksm._replace": "6.1/ksm",
    "ksm._write_protect": "6.1/ksm",
    "madvise.free": "6.1/pageout",
    "mapping._munmap_locked": "6.1/remap",
    "mapping.mremap": "6.1/remap",
    "mprotect._notified": "6.1/mprotect_4k",
    "reclaim._swap_out": "6.1/age_lrugen",
    "reclaim.referenced": "6.1/age_lrugen",
    "rmap.to_migration_entries": "6.12/migrate",
    "split.split_entry": "6.1/pageout",
    "zap.zap_range": "6.1/fault_hugetlb_2m",
    "zap.zap_single": "6.12/dontneed_4k",
}
"""Function that calls the notifiers -> a recording in which it does."""
NOT_SHOWN = {
    "aging.make_old": "DAMON did nothing in the recordings of 6.1",
    "aging.was_accessed": "the same",
    "fault._replace_huge_zero": "no recording is of 6.13 or later",
}
"""Held by tests of their own only."""

Change = Callable[[Callable[..., Any], Process, tuple[Any, ...]], Iterator[Any]]


def _dropped(call: Callable[..., Any], mm: Process, arguments: tuple[Any, ...]) -> Iterator[Any]:
    yield from ()


def _wider(call: Callable[..., Any], mm: Process, arguments: tuple[Any, ...]) -> Iterator[Any]:
    first, second, *rest = arguments
    yield from call(mm, first, second + 4096, *rest)


def _elsewhere(call: Callable[..., Any], mm: Process, arguments: tuple[Any, ...]) -> Iterator[Any]:
    addresses = 2 if call is YOUNG else 1
    yield from call(mm, *(one + 4096 for one in arguments[:addresses]), *arguments[addresses:])


def _other_event(call: Callable[..., Any], mm: Process, arguments: tuple[Any, ...]) -> Iterator[Any]:
    event = MmuEvent.UNMAP if arguments[2] is MmuEvent.CLEAR else MmuEvent.CLEAR
    yield from call(mm, *arguments[:2], event)


def _hasty(call: Callable[..., Any], mm: Process, arguments: tuple[Any, ...]) -> Iterator[Any]:
    """The end follows the start at once; the right end comes to nothing."""
    if call is START:
        yield from START(mm, *arguments)
        yield from END(mm, *arguments)


START, END, YOUNG = Process.invalidate_start, Process.invalidate_end, Process.clear_flush_young
RANGE = {"dropped": _dropped, "wider": _wider, "other event": _other_event, "hasty": _hasty}
SINGLE = {"dropped": _dropped, "elsewhere": _elsewhere}
HARMLESS = {("zap.zap_range", "hasty"): "a pair within the pair of the caller, which covers the change as well"}


def sites() -> dict[str, set[str]]:
    """Calls of notifiers by the function that makes them."""
    found: dict[str, set[str]] = {}
    for path in SOURCES.glob("*.py"):
        if path.name == "process.py":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and node.attr in CALLS:
                        found.setdefault(f"{path.stem}.{function.name}", set()).add(node.attr)
    return found


def mutate(monkeypatch: pytest.MonkeyPatch, site: str, names: tuple[str, ...], change: Change) -> None:
    """From now on the calls `names` that are made in `site` are changed."""

    def changed(name: str) -> Callable[..., Any]:
        call = getattr(Process, name)

        def instead(mm: Process, *arguments: Any) -> Iterator[Any]:
            caller = sys._getframe(1).f_code
            if f"{Path(caller.co_filename).stem}.{caller.co_name}" != site:
                return call(mm, *arguments)  # type: ignore[no-any-return]
            return change(call, mm, arguments)

        return instead

    for name in names:
        monkeypatch.setattr(Process, name, changed(name))


def differs(name: str) -> bool:
    """Whether anything is found to be wrong."""
    try:
        return bool(played(name, invariants=False).differences)
    except AssertionError:
        return True


def test_every_site_is_listed() -> None:
    assert not SHOWN_BY.keys() & NOT_SHOWN.keys()
    assert sites().keys() == SHOWN_BY.keys() | NOT_SHOWN.keys()


CASES = [(site, names, change)
         for site, made in sorted(sites().items()) if site in SHOWN_BY
         for name in sorted(made)
         for names, changes in ((("invalidate_start", "invalidate_end"), RANGE) if name == "invalidate_start"
                                else ((name,), SINGLE),)
         for change in changes if (site, change) not in HARMLESS]  # fmt: skip


@pytest.mark.parametrize(("site", "names", "change"), CASES, ids=lambda value: str(value))
def test_wrong_call_is_found(monkeypatch: pytest.MonkeyPatch, site: str, names: tuple[str, ...], change: str) -> None:
    """Left out, over another range, with another event, or around nothing."""
    mutate(monkeypatch, site, names, (RANGE | SINGLE)[change])
    assert differs(SHOWN_BY[site])


def test_unchanged_calls_through_the_same_patch_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mutants do besides their change is harmless."""
    mutate(monkeypatch, "zap.zap_single", ("invalidate_start", "invalidate_end"),
           lambda call, mm, arguments: call(mm, *arguments))  # fmt: skip
    assert not differs(SHOWN_BY["zap.zap_single"])
