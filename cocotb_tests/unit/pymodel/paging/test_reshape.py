"""split, merge, replace: no walk sees a difference after any single effect (facts F3: U5, U6, U7, U14)."""

import pytest

from cocotb_tests.unit.pymodel.paging.support import G1, K4, M2, Bench
from pymodel.effects import CompareExchange, Effect, Load, Store
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.paging.table import Leaf, Status, Update
from pymodel.paging.update import collect_late, lookup, map_range, merge, protect, replace, split

AT = 3 * G1  # the large page's IOVA; it maps to TO
TO = 5 * G1
SAMPLES = (0, K4, 255 * M2 + 77 * K4, M2 - K4, 300 * M2, 511 * M2 + 511 * K4)


def large(level: int, **rights: bool | int) -> Bench:
    """One large page, and neighbours."""
    bench = Bench()
    bench.map(AT, TO, span(level), **rights)
    bench.map(AT + span(level), 9 * G1, K4)
    assert bench.level(AT) == level
    return bench


def offsets(level: int) -> list[int]:
    """Places inside a page of this level, and one beyond."""
    return sorted({sample % span(level) for sample in SAMPLES} | {span(level)})


def unchanged(bench: Bench, level: int) -> tuple[dict[int, object], "list[Effect]"]:
    """What the samples translate to, and a list for effects."""
    return {offset: bench.answer(AT + offset) for offset in offsets(level)}, []


@pytest.mark.parametrize(("level", "to_level"), [(1, 0), (2, 1), (2, 0)])
def test_split_is_never_seen(level: int, to_level: int) -> None:
    bench = large(level, w=False, snp=True, extra=1 << 59 | 1 << 8)
    before, effects = unchanged(bench, level)
    target = AT + 77 * M2 % span(level) + 5 * K4

    def check(effect: Effect) -> None:
        effects.append(effect)
        for offset, answer in before.items():
            assert bench.answer(AT + offset) == answer, effect

    old = bench.run(lookup(bench.table, AT)).entry.word
    update = bench.step(split(bench.table, target, to_level), after=check)
    assert update == Update(Status.DONE, (Range(AT, AT + span(level)),), True, (), (Leaf(AT, level, old),))
    exchanges = [effect for effect in effects if isinstance(effect, CompareExchange)]
    stores = [effect for effect in effects if isinstance(effect, Store)]
    assert len(exchanges) == 1
    assert effects[-1] is exchanges[0]
    assert len(stores) == 512 * (level - to_level)
    assert bench.level(target) == to_level
    assert bench.level(AT + span(level) - 1) == level - 1  # only the wanted part goes all the way
    entry = bench.run(lookup(bench.table, target)).entry
    assert (entry.snp, entry.accessed, entry.w, entry.word >> 59 & 1) == (True, True, False, 1)
    bench.assert_no_table_leaks()


def test_split_by_default_goes_down_one_level() -> None:
    bench = large(2)
    bench.run(split(bench.table, AT))
    assert bench.level(AT) == 1
    bench.run(split(bench.table, AT))
    assert bench.level(AT) == 0
    for to_level in (None, 0, 1):
        assert bench.run(split(bench.table, AT, to_level)) == Update(Status.DONE)
    assert bench.run(split(bench.table, 0)) == Update(Status.NOT_MAPPED)
    bench.assert_no_table_leaks()


def test_split_tries_again_when_hardware_sets_a_bit() -> None:
    """The children must carry a D bit that arrives between the read of the leaf and the exchange."""
    bench = large(1)
    times = 0

    def meddle(effect: Effect) -> None:
        nonlocal times
        if isinstance(effect, CompareExchange):
            times += 1
            if times <= 2:
                bench.memory.fetch_or(effect.address, 1 << (7 + times))  # A, then D

    update = bench.step(split(bench.table, AT), before=meddle)
    assert times == 3
    assert update.leaves[0].word & 0x300 == 0x300
    page = bench.run(lookup(bench.table, AT)).address & -PAGE
    words = bench.memory.page_words(page)
    assert words is not None
    assert {word & 0x300 for word in words.tolist()} == {0x300}
    bench.assert_no_table_leaks()


def test_split_after_somebody_else_split() -> None:
    bench = large(1)
    done = False

    def meddle(effect: Effect) -> None:
        nonlocal done
        if isinstance(effect, CompareExchange) and not done:
            done = True
            bench.run(split(bench.table, AT))

    assert bench.step(split(bench.table, AT, 0), before=meddle) == Update(Status.DONE)
    bench.assert_no_table_leaks()


def test_split_without_pages_changes_nothing() -> None:
    for pages in (2, 3):  # root and the table with the gigabyte leaf; a split to 4 KiB takes two more
        bench = Bench(pages=pages)
        bench.map(AT, TO, G1)
        assert bench.run(split(bench.table, AT, 0)).status is Status.NO_TABLES
        assert bench.level(AT) == 2
        bench.assert_no_table_leaks()


@pytest.mark.parametrize("level", [1, 2])
def test_merge_is_never_seen_and_the_child_stays(level: int) -> None:
    bench = Bench()
    bench.map(AT, TO, span(level), max_level=level - 1, w=False, snp=True, extra=1 << 57)
    bench.map(AT + span(level), 9 * G1, K4)
    before, effects = unchanged(bench, level)
    child = bench.run(lookup(bench.table, AT, level)).entry.address
    content = bench.memory.page_words(child)
    assert content is not None
    kept = content.copy()

    def check(effect: Effect) -> None:
        effects.append(effect)
        for offset, answer in before.items():
            assert bench.answer(AT + offset) == answer, effect

    update = bench.step(merge(bench.table, AT + 5 * K4, level), after=check)
    assert update == Update(Status.DONE, (Range(AT, AT + span(level)),), False, (child,), ())
    assert bench.level(AT) == level
    assert sum(not isinstance(effect, Load) for effect in effects) == 1
    assert (content == kept).all()
    entry = bench.run(lookup(bench.table, AT)).entry
    assert (entry.snp, entry.word >> 57 & 1) == (True, 1)
    bench.settle(update)
    bench.assert_no_table_leaks()


def test_split_then_merge_gives_the_old_word() -> None:
    for level in (1, 2):
        bench = large(level, w=False, snp=True, extra=1 << 52 | 0x70)
        old = bench.run(lookup(bench.table, AT)).entry.word
        bench.run(split(bench.table, AT))
        bench.settle(bench.run(merge(bench.table, AT, level)))
        assert bench.run(lookup(bench.table, AT)).entry.word == old
        assert bench.run(merge(bench.table, AT, level)) == Update(Status.DONE)  # is a leaf already
        bench.assert_no_table_leaks()


def test_merge_collects_accessed_and_dirty_early_and_late() -> None:
    bench = Bench()
    bench.map(AT, TO, M2, max_level=0)
    bench.memory.fetch_or(bench.run(lookup(bench.table, AT + 9 * K4)).address, 0x100)
    update = bench.run(merge(bench.table, AT, 1))
    (child,) = update.pages
    assert bench.run(lookup(bench.table, AT)).entry.word & 0x300 == 0x100
    effects: list[Effect] = []
    assert bench.step(collect_late(bench.table, AT, 1, child), after=effects.append) == 0
    assert {type(effect) for effect in effects} == {Load}  # nothing new: nothing written
    bench.memory.fetch_or(child + 8 * 300, 0x300)  # a walk that had read the pointer before
    assert bench.run(collect_late(bench.table, AT, 1, child)) == 0x200
    assert bench.run(lookup(bench.table, AT)).entry.dirty
    bench.settle(update)
    bench.unmap(AT, M2)
    assert bench.run(collect_late(bench.table, AT, 1, child)) == 0
    bench.assert_no_table_leaks()


def test_merge_takes_the_rights_of_the_pointer_along() -> None:
    bench = Bench()
    bench.map(AT, TO, M2, max_level=0)
    found = bench.run(lookup(bench.table, AT, 1))
    bench.memory.store(found.address, found.entry.word & ~2)
    before = bench.answers(AT, 512)
    bench.settle(bench.run(merge(bench.table, AT, 1)))
    assert bench.answers(AT, 512) == before
    assert bench.answer(AT) == (TO, True, False)
    bench.assert_no_table_leaks()


@pytest.mark.parametrize("position", [0, 1, 256, 511])
@pytest.mark.parametrize("damage", ["hole", "rights", "address", "software", "reserved"])
def test_merge_refuses_children_that_differ(position: int, damage: str) -> None:
    bench = Bench()
    bench.map(AT, TO, M2, max_level=0)
    found = bench.run(lookup(bench.table, AT + position * K4))
    word = {
        "hole": 0,
        "rights": found.entry.word & ~2,
        "address": found.entry.word ^ 1 << 13,
        "software": found.entry.word | 1 << 55,
        "reserved": found.entry.word | 1 << 62,
    }[damage]
    bench.memory.store(found.address, word)
    assert bench.run(merge(bench.table, AT, 1)) == Update(Status.NOT_UNIFORM)
    bench.memory.store(found.address, found.entry.word)
    bench.assert_no_table_leaks()


def test_merge_refuses_what_cannot_be_one_page() -> None:
    bench = Bench()
    bench.map(AT, TO + K4, M2)  # contiguous, not aligned
    assert bench.run(merge(bench.table, AT, 1)) == Update(Status.NOT_UNIFORM)
    assert bench.run(merge(bench.table, AT, 2)) == Update(Status.NOT_UNIFORM)  # children are pointers
    assert bench.run(merge(bench.table, 0, 1)) == Update(Status.NOT_MAPPED)
    with pytest.raises(ValueError, match=r"level must be in 1\.\.2, not 3"):
        bench.run(merge(bench.table, AT, 3))
    bench.assert_no_table_leaks()


def test_merge_tries_again_when_the_pointer_changes() -> None:
    bench = Bench()
    bench.map(AT, TO, M2, max_level=0)
    times = 0

    def meddle(effect: Effect) -> None:
        nonlocal times
        if isinstance(effect, CompareExchange):
            times += 1
            if times == 1:
                bench.memory.fetch_or(effect.address, 0x100)  # A of the pointer

    update = bench.step(merge(bench.table, AT, 1), before=meddle)
    assert (update.status, times) == (Status.DONE, 2)
    bench.settle(update)
    bench.assert_no_table_leaks()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_replace_is_one_store(level: int) -> None:
    bench = large(level, w=False, extra=1 << 60 | 1 << 9)
    old = bench.run(lookup(bench.table, AT)).entry.word
    new = 17 * G1
    effects: list[Effect] = []
    seen: list[object] = []

    def look(effect: Effect) -> None:
        effects.append(effect)
        seen.append(bench.answer(AT + span(level) - 1))

    update = bench.step(replace(bench.table, AT + span(level) - 1, new), after=look)
    assert update == Update(Status.DONE, (Range(AT, AT + span(level)),), True, (), (Leaf(AT, level, old),))
    assert [type(effect) for effect in effects if not isinstance(effect, Load)] == [CompareExchange]
    assert set(seen) == {(TO + span(level) - 1, True, False), (new + span(level) - 1, True, False)}
    word = bench.run(lookup(bench.table, AT)).entry.word
    assert word ^ old == new ^ TO  # nothing but the address
    assert bench.run(replace(bench.table, 0, 0)) == Update(Status.NOT_MAPPED)
    if level:
        with pytest.raises(ValueError, match=rf"page address at level {level} must be a multiple"):
            bench.run(replace(bench.table, AT, K4))
    bench.assert_no_table_leaks()


def test_replace_keeps_a_dirty_bit_that_arrives_meanwhile() -> None:
    bench = large(0)
    first = True

    def meddle(effect: Effect) -> None:
        nonlocal first
        if isinstance(effect, CompareExchange) and first:
            first = False
            bench.memory.fetch_or(effect.address, 0x200)

    bench.step(replace(bench.table, AT, G1), before=meddle)
    entry = bench.run(lookup(bench.table, AT)).entry
    assert (entry.address, entry.dirty) == (G1, True)
    bench.assert_no_table_leaks()


def test_malformed_entries() -> None:
    bench = large(1)
    found = bench.run(lookup(bench.table, AT))
    bench.memory.store(found.address, found.entry.word | 1 << 62)
    for agent in (split(bench.table, AT), merge(bench.table, AT, 1), replace(bench.table, AT, 0)):
        assert bench.run(agent) == Update(Status.MALFORMED)
    bench.memory.store(found.address, found.entry.word)
    bench.assert_no_table_leaks()


def test_a_hole_in_a_large_page_the_hitless_way() -> None:
    """Conversion of 4 KiB inside 1 GiB: split, replace the one page, later merge back (facts F3, U7)."""
    bench = large(2)
    inside = AT + 100 * M2 + 9 * K4
    bench.run(split(bench.table, inside, 0))
    bench.run(replace(bench.table, inside, K4))
    bench.run(protect(bench.table, inside, K4, r=True, w=False))
    assert bench.answer(inside) == (K4, True, False)
    assert bench.answer(inside + K4) == (TO + 100 * M2 + 10 * K4, True, True)
    assert bench.run(merge(bench.table, inside, 1)).status is Status.NOT_UNIFORM
    bench.run(protect(bench.table, inside, K4, r=True, w=True))
    bench.run(replace(bench.table, inside, TO + 100 * M2 + 9 * K4))
    for level in (1, 2):
        assert bench.settle(bench.run(merge(bench.table, inside, level))).status is Status.DONE
    assert bench.level(inside) == 2
    bench.run(map_range(bench.table, 0, 0, K4))
    bench.assert_no_table_leaks()
