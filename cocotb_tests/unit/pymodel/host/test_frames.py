"""The page allocator: sizes, reuse, coalescing, misuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymodel.host.errors import BadRange, DoubleFree, OutOfMemory, UseAfterFree
from pymodel.host.frames import ORDERS, Folio, Frames

BASE = 1 << 18


def drop(frames: Frames, folio: Folio) -> None:
    folio.refs = 0
    frames.release(folio)


def test_what_was_freed_last_is_given_out_first() -> None:
    frames = Frames(BASE, 1024)
    first, second = frames.allocate(0), frames.allocate(0)
    drop(frames, first)
    assert frames.allocate(0).frame == first.frame != second.frame


@pytest.mark.parametrize("order", ORDERS)
def test_page_is_aligned_to_its_size(order: int) -> None:
    frames = Frames(BASE, 1 << 18)
    if order < 18:
        frames.allocate(0)
    folio = frames.allocate(order)
    assert folio.frame % folio.count == 0
    assert (folio.level, folio.refs) == (order // 9 + 1, 1)
    assert frames.folio(folio.frame + folio.count - 1) is folio


def test_freed_pages_become_huge_pages_again() -> None:
    frames = Frames(BASE, 1 << 18)
    small = [frames.allocate(0) for _ in range(1 << 10)]
    with pytest.raises(OutOfMemory, match="gigabyte"):
        frames.allocate(18)
    for folio in small[::2] + small[1::2]:
        drop(frames, folio)
    assert frames.free_count == 1 << 18
    assert frames.allocate(18).frame == BASE


def test_memory_is_used_up_to_the_last_frame() -> None:
    frames = Frames(BASE, 1024)
    taken = {frames.allocate(0).frame for _ in range(1024)}
    assert taken == set(range(BASE, BASE + 1024))
    with pytest.raises(OutOfMemory, match="2 MiB"):
        frames.allocate(0)


@given(st.lists(st.tuples(st.sampled_from((0, 0, 0, 9)), st.integers(0, 50)), max_size=60))
def test_pages_never_overlap(steps: list[tuple[int, int]]) -> None:
    """Against a set of frames, which is a slow allocator."""
    frames, live, used = Frames(BASE, 8 * 512), list[Folio](), set[int]()
    for order, choice in steps:
        if live and choice % 3 == 0:
            folio = live.pop(choice % len(live))
            used -= set(range(folio.frame, folio.frame + folio.count))
            drop(frames, folio)
            continue
        try:
            folio = frames.allocate(order)
        except OutOfMemory:
            continue
        span = set(range(folio.frame, folio.frame + folio.count))
        assert not span & used
        assert span <= set(range(BASE, BASE + 8 * 512))
        used |= span
        live.append(folio)
    assert frames.free_count == 8 * 512 - len(used)
    assert all(frames.is_free(frame) == (frame not in used) for frame in range(BASE, BASE + 8 * 512, 97))


def test_split_page_is_512_pages_that_are_freed_alone() -> None:
    frames = Frames(BASE, 1024)
    folio = frames.allocate(9, anonymous=True)
    folio.exclusive = 0b100
    parts = frames.split(folio)
    assert [part.frame for part in parts] == list(range(folio.frame, folio.frame + 512))
    assert [part.refs for part in parts] == [1] + [0] * 511
    assert [part.frame - folio.frame for part in parts if part.exclusive] == [2]
    frames.release(parts[5])
    assert frames.is_free(folio.frame + 5)
    assert frames.folio(folio.frame + 6) is parts[6]


def test_freeing_twice_wrong() -> None:
    frames = Frames(BASE, 512)
    folio = frames.allocate(0)
    drop(frames, folio)
    with pytest.raises(DoubleFree, match="free already"):
        frames.release(folio)


def test_freeing_a_page_in_use_wrong() -> None:
    frames = Frames(BASE, 512)
    with pytest.raises(UseAfterFree, match="freed with 1 references"):
        frames.release(frames.allocate(0))


def test_frame_of_nobody_wrong() -> None:
    frames = Frames(BASE, 512)
    with pytest.raises(UseAfterFree, match=f"{BASE + 3:#x} belongs to nobody"):
        frames.folio(BASE + 3)
    assert not frames.is_free(BASE - 1)


@pytest.mark.parametrize(("base", "count"), [(1, 512), (0, 5), (0, 0), (-512, 512)])
def test_memory_of_odd_size_wrong(base: int, count: int) -> None:
    with pytest.raises(BadRange, match="2 MiB aligned"):
        Frames(base, count)


def test_order_and_split_wrong() -> None:
    frames = Frames(BASE, 1024)
    with pytest.raises(BadRange, match="order must be one of"):
        frames.allocate(1)
    with pytest.raises(BadRange, match="only a live 2 MiB page"):
        frames.split(frames.allocate(0))
