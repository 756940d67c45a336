"""map, unmap and protect, against a list of 4 KiB pages; table pages are counted at the end of each test."""

import random
from collections.abc import Iterator

import pytest

from cocotb_tests.unit.pymodel.paging.support import G1, K4, M2, Answer, Bench
from pymodel.effects import CompareExchange, Effect, Load, Store, apply
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import Range, entry_address, span
from pymodel.paging.table import PagePool, PageTable, Status, Update
from pymodel.paging.update import lookup, map_range, protect, unmap_range


@pytest.fixture(params=[3, 4, 5], ids=["3-level", "4-level", "5-level"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An empty table; afterwards everything must be gone."""
    made = Bench(request.param)
    yield made
    made.assert_no_table_leaks()


def test_one_page_of_each_size(bench: Bench) -> None:
    for level, size in ((2, G1), (1, M2), (0, K4)):
        iova = (1 << (12 + 9 * bench.table.levels)) - size  # the last one, too
        for at, address in ((G1, 2 * G1), (iova, G1)):
            assert bench.map(at, address, size) == Update(Status.DONE)  # nothing is owed for new leaves
            assert bench.level(at) == level
            assert bench.answer(at + size - 1) == (address + size - 1, True, True)
            update = bench.unmap(at, size)
            assert update.ranges == (Range(at, at + size),)
            assert [(leaf.iova, leaf.level) for leaf in update.leaves] == [(at, level)]
            assert bench.answer(at) is None


def test_map_takes_the_largest_pages_that_fit(bench: Bench) -> None:
    start, length = G1 - 14 * M2, 14 * M2 + 3 * G1 + 3 * M2
    bench.map(start, 4 * G1 + start, length)
    update = bench.unmap(start, length)
    assert [leaf.level for leaf in update.leaves] == [1] * 14 + [2] * 3 + [1] * 3
    bench.map(start, 4 * G1 + start + K4, 2 * M2)  # not congruent: 4 KiB only
    assert {leaf.level for leaf in bench.unmap(start, 2 * M2).leaves} == {0}
    bench.map(start, 0, 2 * M2, max_level=0)
    assert len(bench.unmap(start, 2 * M2).leaves) == 1024


def test_map_writes_children_before_it_links_them(bench: Bench) -> None:
    """Whatever is reachable is complete: after each effect a page is not mapped, or mapped as wanted."""
    start, length = M2 - 3 * K4, 2 * M2 + 5 * K4
    end = start + length
    probes = [start - K4, start, M2 - K4, M2, 2 * M2, 3 * M2 - K4, 3 * M2, end - K4, end]
    wanted: dict[int, Answer] = dict.fromkeys(probes)
    wanted |= {iova: (iova + G1, True, True) for iova in probes if start <= iova < end}
    linked: set[int] = set()

    def check(effect: Effect) -> None:
        if isinstance(effect, Load):
            return
        for iova in probes:
            answer = bench.answer(iova)
            assert answer in (None, wanted[iova])
            assert not (iova in linked and answer is None)
            if answer:
                linked.add(iova)

    bench.step(map_range(bench.table, start, start + G1, length), after=check)
    assert linked == {iova for iova in probes if wanted[iova]}


def test_unmap_clears_content_before_the_pointer_and_owes_the_tables(bench: Bench) -> None:
    bench.map(0, G1, M2, max_level=0)
    bench.map(M2, 3 * G1, K4)
    child = bench.run(lookup(bench.table, 0, 1)).entry.address
    update = bench.run(unmap_range(bench.table, 0, M2))
    assert update.pages == (child,)
    assert update.ranges == (Range(0, M2),)
    assert not update.keep_pointers
    assert child in bench.pool.in_use  # not before the invalidation
    page = bench.memory.page_words(child)
    assert page is not None
    assert not page.any()
    bench.settle(update)
    assert child not in bench.pool.in_use
    assert bench.answer(M2) == (3 * G1, True, True)  # the neighbour stays


def test_leaves_alone_keep_the_pointers(bench: Bench) -> None:
    bench.map(0, G1, 4 * K4)
    update = bench.unmap(K4, K4)
    assert (update.keep_pointers, update.pages, update.ranges) == (True, (), (Range(K4, 2 * K4),))
    update = bench.unmap(0, 4 * K4)  # the hole is skipped, the ranges around it are named
    assert update.ranges == (Range(0, K4), Range(2 * K4, 4 * K4))


def test_unmap_takes_a_large_page_as_a_whole_and_does_not_run_on(bench: Bench) -> None:
    bench.map(0, G1, 3 * M2)
    update = bench.unmap(0, M2 + K4)
    assert update.ranges == (Range(0, 2 * M2),)
    assert bench.answer(2 * M2) == (G1 + 2 * M2, True, True)
    assert bench.unmap(2 * M2 + K4, K4) == Update(Status.INSIDE_LARGE)
    assert bench.answer(2 * M2) is not None


def test_map_over_something_is_refused_and_undone(bench: Bench) -> None:
    bench.map(5 * M2 + 7 * K4, G1, K4)
    before = bench.answers(0, 8 * 512)
    in_use = bench.pool.in_use
    update = bench.map(M2 - 2 * K4, 2 * G1, 6 * M2)
    assert update.status is Status.IN_USE
    assert bench.answers(0, 8 * 512) == before
    assert len(bench.pool.in_use - in_use) == 1  # the empty table of the first 2 MiB, covered in part only
    assert update.leaves == ()
    assert all(not piece.overlaps(Range.of_entry(5 * M2 + 7 * K4, 0)) for piece in update.ranges)
    assert bench.map(5 * M2, 2 * G1, M2) == Update(Status.IN_USE)  # a large page where a table has a leaf
    bench.map(0, 3 * G1, M2)
    assert bench.map(K4, 0, K4) == Update(Status.IN_USE)  # a page inside a large one


def test_empty_tables_make_room_for_large_pages(bench: Bench) -> None:
    bench.map(0, G1, 4 * M2, max_level=0)
    for page in range(4 * 512):
        bench.unmap(page * K4, K4)
    tables = len(bench.pool.in_use)
    update = bench.map(0, 2 * G1, G1)
    assert update.status is Status.DONE
    assert bench.level(0) == 2
    assert not update.keep_pointers
    assert update.ranges == (Range(0, G1),)
    assert len(update.pages) == 5
    assert len(bench.pool.in_use) == tables - 5


def test_an_undone_map_owes_its_whole_range_once() -> None:
    """An empty table gave way to a large page before the map failed: unlinked first, undone later."""
    bench = Bench()
    bench.map(2 * M2, G1, M2, max_level=0)
    for page in range(512):
        bench.unmap(2 * M2 + page * K4, K4)
    bench.map(4 * M2 + K4, 0, K4)
    update = bench.map(M2 - K4, 2 * G1 - K4, 6 * M2)
    assert update.status is Status.IN_USE
    assert update.ranges == (Range(M2 - K4, 4 * M2),)
    assert (update.keep_pointers, len(update.pages)) == (False, 1)
    bench.assert_no_table_leaks()


def test_random_maps_and_unmaps_against_a_dictionary() -> None:
    for seed in range(3):
        rng = random.Random(seed)
        bench = Bench(rng.choice([3, 4, 5]))
        pages = 6 * 512
        base = G1 - 3 * M2
        reference: list[Answer] = [None] * pages
        refused = 0
        for step in range(120):
            first = rng.randrange(pages)
            count = min(pages - first, rng.choice([1, 2, 7, 100, 512, 1024, 2000]))
            if rng.random() < 0.4:
                first = first // 512 * 512
            covered = reference[first : first + count]
            if rng.random() < 0.55:
                w = rng.random() < 0.7
                address = rng.randrange(1 << 14) * rng.choice([K4, M2])
                update = bench.map(base + first * K4, address, count * K4, w=w)
                if any(covered):
                    assert update.status is Status.IN_USE
                    refused += 1
                else:
                    assert update.status is Status.DONE
                    for position in range(count):
                        reference[first + position] = (address + position * K4, True, w)
            else:
                update = bench.unmap(base + first * K4, count * K4)
                if update.status is Status.INSIDE_LARGE:
                    assert not update.leaves
                    continue
                for leaf in update.leaves:
                    at = (leaf.iova - base) // K4
                    size = span(leaf.level) // K4
                    assert all(reference[at : at + size])
                    reference[at : at + size] = [None] * size
                assert not any(reference[first : first + count])
            if step % 8 == 0:
                assert bench.answers(base, pages) == reference, (seed, step)
        assert bench.answers(base, pages) == reference
        assert refused > 5
        bench.assert_no_table_leaks()


def test_two_mappers_share_tables_whatever_the_order() -> None:
    """Both build the upper tables; the loser of each compare-exchange gives its own back."""
    for seed in range(40):
        rng = random.Random(seed)
        bench = Bench()
        agents = [
            map_range(bench.table, 0, 0, 3 * K4),
            map_range(bench.table, 3 * K4, 3 * K4, 2 * K4),
            map_range(bench.table, M2, M2, M2),
        ]
        answers: list[int | None] = [None] * 3
        done: list[Update] = []
        while len(done) < 3:
            number = rng.choice([n for n in range(3) if n < len(agents) and answers[n] != -1])
            try:
                effect = agents[number].send(answers[number])
            except StopIteration as stop:
                done.append(stop.value)
                answers[number] = -1
                continue
            answers[number] = apply(effect, bench.memory)
        assert done == [Update(Status.DONE)] * 3
        assert len(bench.pool.in_use) == 4
        expected: list[Answer] = [(page * K4, True, True) for page in (*range(5), *range(512, 1024))]
        assert bench.answers(0, 5) + bench.answers(M2, 512) == expected
        bench.assert_no_table_leaks()


def test_mapper_and_unmapper_of_neighbours() -> None:
    """Unmapping one half of a table's span while the other half is mapped never loses the table."""
    for seed in range(20):
        rng = random.Random(seed)
        bench = Bench()
        bench.map(0, G1, 256 * K4)
        agents = [unmap_range(bench.table, 0, 256 * K4), map_range(bench.table, M2 - K4, G1, K4)]
        answers: list[int | None] = [None, None]
        live = [0, 1]
        while live:
            number = rng.choice(live)
            try:
                effect = agents[number].send(answers[number])
            except StopIteration as stop:
                bench.settle(stop.value)
                live.remove(number)
                continue
            answers[number] = apply(effect, bench.memory)
        assert bench.answer(M2 - K4) == (G1, True, True)
        assert bench.answer(0) is None
        bench.assert_no_table_leaks()


def test_no_update_loses_a_bit_that_hardware_sets() -> None:
    """A walker sets A or D right before each compare-exchange of a leaf, once."""
    for operation in ("unmap", "protect"):
        bench = Bench()
        bench.map(0, G1, 3 * K4)
        hit: set[int] = set()

        def meddle(effect: Effect, bench: Bench = bench, hit: set[int] = hit) -> None:
            if isinstance(effect, CompareExchange) and effect.address not in hit:
                hit.add(effect.address)
                bench.memory.fetch_or(effect.address, 0x300)

        agent = {
            "unmap": unmap_range(bench.table, 0, 3 * K4),
            "protect": protect(bench.table, 0, 3 * K4, r=True, w=False),
        }[operation]
        update = bench.step(agent, before=meddle)
        assert [leaf.word & 0x300 for leaf in update.leaves] == [0x300] * 3
        if operation == "protect":
            assert bench.run(lookup(bench.table, 0)).entry.word == G1 | 0x301
        bench.settle(update)
        bench.assert_no_table_leaks()


def test_protect(bench: Bench) -> None:
    bench.map(0, G1, M2 + 4 * K4)
    update = bench.run(protect(bench.table, M2 + K4, 2 * K4, r=True, w=False))
    assert update.ranges == (Range(M2 + K4, M2 + 3 * K4),)
    assert (update.status, update.keep_pointers, update.pages) == (Status.DONE, True, ())
    assert [a[2] for a in bench.answers(M2, 4) if a] == [True, False, False, True]
    again = bench.run(protect(bench.table, M2 + K4, 2 * K4, r=True, w=False))
    assert again == Update(Status.DONE)  # nothing changed, nothing owed
    assert bench.run(protect(bench.table, 0, K4, r=True, w=False)) == Update(Status.INSIDE_LARGE)
    whole = bench.run(protect(bench.table, 0, 2 * M2, r=False, w=True))
    assert whole.ranges == (Range(0, M2 + 4 * K4),)
    assert bench.answer(0) == (G1, False, True)
    bench.run(protect(bench.table, 0, 2 * M2, r=True, w=True))
    assert bench.answers(0, 516) == [(G1 + page * K4, True, True) for page in range(516)]


def test_reserved_entries_stop_updates() -> None:
    bench = Bench()
    bench.map(0, G1, 2 * K4)
    found = bench.run(lookup(bench.table, K4))
    bench.memory.store(found.address, found.entry.word | 1 << 62)
    assert bench.run(protect(bench.table, 0, M2, r=True, w=False)).status is Status.MALFORMED
    assert bench.map(K4, 0, K4).status is Status.IN_USE
    update = bench.unmap(0, M2)
    assert update.status is Status.MALFORMED
    assert update.ranges == (Range(0, K4),)
    bench.memory.store(found.address, 0)
    bench.assert_no_table_leaks()


def test_a_pool_that_runs_dry_leaves_nothing_behind() -> None:
    needed = 1 + 3 + 2  # root, one path, two more leaf tables
    for pages in range(1, needed):
        bench = Bench(pages=pages)
        update = bench.map(M2 - 3 * K4, G1 + K4, 2 * M2)
        assert update.status is Status.NO_TABLES
        assert bench.answers(0, 4 * 512) == [None] * (4 * 512)
        bench.assert_no_table_leaks()
    bench = Bench(pages=needed)
    assert bench.map(M2 - 3 * K4, G1 + K4, 2 * M2).status is Status.DONE
    bench.assert_no_table_leaks()


def test_a_reused_table_page_is_empty() -> None:
    bench = Bench(pages=4)
    bench.map(0, G1, M2, max_level=0)
    leaf_table = bench.run(lookup(bench.table, 0)).address & -K4
    words = {leaf_table + 8 * position for position in range(512)}
    bench.unmap(0, M2)
    for word in words:
        bench.memory.store(word, 0xBAD)  # somebody wrote to freed memory
    bench.map(0, 2 * G1, K4)
    assert bench.answers(0, 512) == [(2 * G1, True, True)] + [None] * 511
    bench.assert_no_table_leaks()


def test_software_bits_and_formats_without_large_pages() -> None:
    bench = Bench(format_=SecondStage(haw=39, large_pages=0))
    bench.map(0, M2, M2, extra=1 << 59)
    entry = bench.run(lookup(bench.table, K4)).entry
    assert (entry.level, entry.word) == (0, 1 << 59 | M2 + K4 | 3)
    bench.assert_no_table_leaks()


def test_every_store_goes_to_a_private_table() -> None:
    """Plain stores only fill tables that no walker can reach; live entries change by compare-exchange."""
    bench = Bench()
    reachable = {bench.table.root}

    def check(effect: Effect) -> None:
        if isinstance(effect, Store):
            assert effect.address & -K4 not in reachable
        elif isinstance(effect, CompareExchange):
            todo = [(bench.table.root, 3)]
            reachable.clear()
            while todo:
                page, level = todo.pop()
                reachable.add(page)
                words = bench.memory.page_words(page)
                for word in words.tolist() if words is not None and level else ():
                    entry = bench.format.classify(word, level)
                    if entry.kind.name == "TABLE":
                        todo.append((entry.address, level - 1))

    for start, length in ((0, 3 * K4), (8 * K4, K4), (M2, M2), (G1 - K4, 2 * K4)):
        bench.step(map_range(bench.table, start, start, length), after=check)
    bench.assert_no_table_leaks()


def test_lookup_stops_where_it_is_told(bench: Bench) -> None:
    bench.map(0, G1, K4)
    for level in range(bench.table.levels):
        found = bench.run(lookup(bench.table, 0, level))
        assert found.entry.level == level
    top = bench.table.levels - 1
    assert bench.run(lookup(bench.table, 0, top)).address == entry_address(bench.table.root, 0, top)
    assert bench.run(lookup(bench.table, M2)).entry.level == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("map_range(table, 0x800, 0, 0x1000)", r"iova 0x800 and length 0x1000 must be whole pages below"),
        ("map_range(table, 0, 0, 0)", r"length 0x0 must be whole pages"),
        ("map_range(table, 0, 0x800, 0x1000)", r"address must be a multiple of 4 KiB, not 0x800"),
        ("map_range(table, (1 << 48) - 4096, 0, 8192)", r"below 2\*\*48"),
        ("map_range(table, 0, (1 << 48) - 4096, 8192)", r"below 2\*\*48, not 0x1000000000000"),
        ("map_range(table, 0, 0, 4096, r=False, w=False)", r"must grant r or w"),
        ("map_range(table, 0, 0, 4096, extra=1 << 7)", r"extra bits must be ignored ones"),
        ("unmap_range(table, -4096, 4096)", r"iova -0x1000"),
        ("protect(table, 0, 4096, r=False, w=False)", r"use unmap_range to take both"),
    ],
)
def test_misuse_changes_nothing(call: str, message: str) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match=message):
        bench.run(eval(call, globals(), {"table": bench.table}))
    bench.assert_no_table_leaks()


def test_misuse_of_table_and_pool() -> None:
    pool = PagePool(0x10000, 0x12000)
    with pytest.raises(ValueError, match=r"levels must be 3, 4 or 5, not 6"):
        PageTable(SecondStage(), 0, 6, pool)
    with pytest.raises(ValueError, match=r"root must be a page address, not 0x8"):
        PageTable(SecondStage(), 8, 4, pool)
    with pytest.raises(ValueError, match=r"pool 0x1000\.\.0x1800 must be whole pages"):
        PagePool(0x1000, 0x1800)
    with pytest.raises(ValueError, match=r"page 0x10000 is not in use"):
        pool.free(0x10000)
    assert [pool.allocate(), pool.allocate()] == [0x10000, 0x11000]
    with pytest.raises(RuntimeError, match=r"all 2 table pages are in use"):
        pool.allocate()
    pool.free(0x10000)
    assert pool.allocate() == 0x10000
