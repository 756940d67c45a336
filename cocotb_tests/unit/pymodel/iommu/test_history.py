"""History is bounded: what a completed global invalidation made irrelevant is forgotten, and only that."""

import random

import pytest

from cocotb_tests.unit.pymodel.iommu.setting import (
    BASE,
    CONTEXTS,
    GLOBAL,
    OTHER_PT,
    PD,
    PT,
    SID,
    Setting,
    context_entry,
    page,
    words,
)
from cocotb_tests.unit.pymodel.iommu.test_soundness import IOVAS, change
from pymodel.iommu import Request
from pymodel.iommu.coverage import Invalidation
from pymodel.iommu.queue import ContextInvalidation
from pymodel.spec.descriptors import Granularity
from pymodel.spec.params import IommuParams

CONTEXT_GLOBAL = ContextInvalidation(Granularity.GLOBAL)


def prune(setting: Setting, oldest: int | None = None) -> None:
    """No request accepted before `oldest` (default: now) is open."""
    setting.judge.prune(setting.time if oldest is None else oldest)


def test_old_values_are_forgotten_once_a_global_invalidation_completed() -> None:
    setting = Setting()
    for index in range(64):
        setting.store(PT + 8 * index, 0x7000_0003 + (index << 12))
    prune(setting)
    assert setting.judge.history.kept == 64
    setting.submit(GLOBAL)
    prune(setting)
    assert setting.judge.history.kept == 64
    setting.store(PT, 0x8000_0003)  # after the submission: the value before it may be cached still
    setting.complete()
    prune(setting)
    assert setting.judge.history.kept == 1
    assert setting.results(0x0) == {0x7000_0000, 0x8000_0000}
    assert setting.results(0x1000) == {0x7000_1000}


def test_history_waits_for_requests_that_are_open() -> None:
    setting = Setting()
    accepted = setting.time
    setting.store(PT, 0)
    setting.store(PT, 0x7000_0003)
    setting.invalidate(GLOBAL)
    prune(setting, oldest=accepted)
    assert setting.results(0x0, accepted=accepted) == {"READ_DENIED", 0x7000_0000}
    prune(setting)
    assert setting.judge.history.kept == 0
    assert setting.results(0x0) == {0x7000_0000}


def test_context_structures_wait_for_a_flush_of_contexts() -> None:
    setting = Setting()
    assert setting.results(0x5000) == {BASE + 0x5000}
    words(setting.memory, CONTEXTS + 16 * SID, context_entry(table=OTHER_PT), 2)
    setting.invalidate(GLOBAL)
    prune(setting)
    assert setting.judge.history.kept == 1
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}  # the old entry may be cached
    setting.invalidate(CONTEXT_GLOBAL)
    prune(setting)
    assert setting.judge.history.kept == 1  # its table may be cached
    setting.invalidate(GLOBAL)
    prune(setting)
    assert setting.judge.history.kept == 0
    assert setting.results(0x5000) == {"READ_DENIED"}


def test_counts_do_not_grow_with_the_run() -> None:
    """Ever new words change; a global invalidation comes now and then."""
    setting = Setting()
    history, coverage = setting.judge.history, setting.judge.coverage
    most = 0
    for number in range(20_000):
        setting.store(0x100_0000 + 8 * number, 3)
        if number % 10 == 0:
            setting.submit(page(number << 12, did=number))
        if number % 100 == 99:
            setting.submit(GLOBAL)
            setting.complete()
            prune(setting)
        most = max(most, history.kept, len(history.records), len(coverage._leaf_range), len(coverage._pointer_range))
    assert most <= 100
    assert len(coverage.pointer_global) < 20


@pytest.mark.parametrize("seed", range(40))
def test_forgetting_changes_no_verdict(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One judge forgets, the other never: every set of legal outcomes is the same, of open requests as well."""
    rnd = random.Random(seed)
    judges = [Setting(IommuParams()), Setting(IommuParams())]
    monkeypatch.setattr(judges[1].judge.coverage, "_forget", lambda: None)
    open_: list[tuple[int, bool, int]] = []

    def both(inv: Invalidation | None) -> None:
        for setting in judges:
            if inv is None:
                setting.complete()
            else:
                setting.submit(inv)

    for _ in range(300):
        kind = rnd.random()
        if kind < 0.4:
            state = rnd.getstate()
            for setting in judges:
                rnd.setstate(state)
                change(setting, rnd)
        elif kind < 0.55:
            open_.append((rnd.choice(IOVAS), rnd.random() < 0.4, judges[0].time))
        elif kind < 0.7 and open_:
            iova, write, accepted = open_.pop(rnd.randrange(len(open_)))
            request = Request(SID, None, iova, write)
            one, other = (setting.judge.legal(request, accepted, setting.time) for setting in judges)
            assert one == other
        elif kind < 0.9:
            table = page(rnd.choice(IOVAS), rnd.choice((0, 9)), rnd.random() < 0.4)
            both(rnd.choice((GLOBAL, CONTEXT_GLOBAL, table, page(PD << 8, 18))))
        else:
            both(None)
        judges[0].judge.prune(min((accepted for _, _, accepted in open_), default=judges[0].time))
    both(GLOBAL)
    both(None)
    prune(judges[0])
    assert judges[0].judge.history.kept < judges[1].judge.history.kept
