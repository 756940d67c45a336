"""Pictures of values and of where generators stand."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymodel.explore.freezing import freeze, places, position


@dataclass
class Shared:
    sequence: int = 0
    names: list[str] = field(default_factory=list)
    inner: "Shared | None" = None


def test_freeze_sees_all_state() -> None:
    """Equal pictures for equal states; aliasing, bound methods and closures count; generators are refused."""

    class Pool:
        def __init__(self) -> None:
            self.next = 0

        def allocate(self) -> int:
            self.next += 1
            return self.next

    one, other = Pool(), Pool()
    assert freeze(one.allocate) == freeze(other.allocate)
    one.allocate()
    assert freeze(one.allocate) != freeze(other.allocate)
    assert freeze(lambda: one.next) != freeze(lambda: other.next)
    assert freeze({"a": [1, {2, 3}, (4,)]}) == freeze({"a": [1, {3, 2}, (4,)]})
    assert freeze([one, one]) != freeze([one, Pool()])
    assert freeze([Shared(1), Shared(1)]) != freeze([Shared(1), Shared(2)])
    loop: list[Any] = []
    loop.append(loop)
    assert hash(freeze(loop)) == hash(freeze(loop))
    for hidden in (iter([1]), (number for number in [1])):
        with pytest.raises(TypeError, match="cannot be seen"):
            freeze(hidden)


def advanced(generator: Generator[Any, Any, Any], *answers: Any) -> Generator[Any, Any, Any]:
    """The generator after these answers; the first is the None that starts it."""
    for answer in (None, *answers):
        generator.send(answer)
    return generator


def forgetful() -> Generator[int, int, None]:
    """What it was told makes no difference in the end."""
    told = yield 0
    told = told * 0
    yield 1
    yield 2


def test_equal_positions_after_different_answers() -> None:
    """Only what the generator still knows counts: its variables and its place."""
    assert position(advanced(forgetful(), 5), {}) == position(advanced(forgetful(), 6), {})
    assert position(advanced(forgetful(), 5), {}) != position(advanced(forgetful(), 5, 0), {})
    assert position(advanced(forgetful()), {}) == position(advanced(forgetful()), {})

    def remembering() -> Generator[int, int, int]:
        told = yield 0
        yield 1
        return told

    assert position(advanced(remembering(), 5), {}) != position(advanced(remembering(), 6), {})


def test_a_position_does_not_change_by_looking() -> None:
    """The picture that is taken a second time, on the way and at the same place, is the same."""
    looked = advanced(forgetful())
    position(looked, {})
    position(looked, {})
    looked.send(5)
    assert position(looked, {}) == position(looked, {}) == position(advanced(forgetful(), 5), {})


def nested(depth: int) -> Generator[int, int, int]:
    """Delegates to one more of itself for each level."""
    if depth:
        return (yield from nested(depth - 1)) + 1
    return (yield 0)


@pytest.mark.parametrize(
    "loop",
    [
        lambda: range(3),
        lambda: [7, 7, 7],
        lambda: (7, 7, 7),
        lambda: {7: 7, 8: 8, 9: 9},
        lambda: enumerate([7, 7, 7]),
        lambda: zip([7, 7, 7], [8, 8, 8], strict=True),
        lambda: iter([7, 7, 7]),
        lambda: (7 for _ in range(3)),
    ],
    ids=["range", "list", "tuple", "dict", "enumerate", "zip", "iterator", "generator"],
)
def test_where_a_loop_stands_counts(loop: Any) -> None:
    """The iterator of a loop is in no variable."""

    def agent() -> Generator[int, None, None]:
        for item in loop():
            del item  # the loop variable must not be what tells the positions apart
            yield 0

    first, second = position(advanced(agent()), {}), position(advanced(agent(), None), {})
    assert first == position(advanced(agent()), {})
    assert first != second


def test_rest_of_a_list_in_a_loop_counts() -> None:
    """Two loops at the same index over different lists differ, also if they were equal once."""

    def agent(items: list[int]) -> Generator[int, None, None]:
        for item in list(items):
            yield item + 0

    assert position(advanced(agent([1, 2])), {}) == position(advanced(agent([1, 2])), {})
    one, two = agent([1, 2]), agent([1, 3])
    changed: list[list[int]] = [[1, 2], [1, 3]]
    assert position(advanced(one), {}) != position(advanced(two), {})

    def emptied(items: list[int]) -> Generator[int, None, None]:
        for item in list(items):
            items.clear()
            yield item

    assert position(advanced(emptied(changed[0])), {}) != position(advanced(emptied(changed[1])), {})


def test_delegation_counts() -> None:
    """How deep a generator is in others, and what those know."""
    assert position(advanced(nested(2)), {}) == position(advanced(nested(2)), {})
    assert position(advanced(nested(2)), {}) != position(advanced(nested(3)), {})

    def through(value: int) -> Generator[int, int, int]:
        def inner() -> Generator[int, int, int]:
            return value + (yield 0)

        return (yield from inner())

    assert position(advanced(through(1)), {}) != position(advanced(through(2)), {})


def test_shared_objects_count_by_name() -> None:
    """What is shared is no part of a position, but which of the shared objects a variable is."""
    one = Shared(1, ["a"], Shared(2))
    two = Shared(5, ["b"], Shared(6))

    def agent(shared: Shared, deep: bool) -> Generator[int, None, None]:
        held = shared.inner if deep else shared
        yield 0
        assert held

    def where(shared: Shared, deep: bool) -> Any:
        return position(advanced(agent(shared, deep)), places(shared))

    assert where(one, True) == where(two, True)
    assert where(one, True) != where(one, False)
    assert position(advanced(agent(one, True)), {}) != position(advanced(agent(two, True)), {})


def test_an_object_that_left_what_is_shared_counts_by_contents() -> None:
    """Such as a memslot that was deleted while a fault holds it."""
    shared = [Shared(1)]

    def agent(one: Shared) -> Generator[int, None, None]:
        yield 0
        assert one

    def where(one: Shared) -> Any:
        return position(advanced(agent(one)), places(shared))

    assert where(shared[0]) != where(Shared(1))
    assert where(Shared(1)) == where(Shared(1))
    assert where(Shared(1)) != where(Shared(2))


def test_what_cannot_be_seen_is_refused() -> None:
    """An object without visible state stops the exploration instead of being taken for equal."""

    def agent() -> Generator[int, None, None]:
        hidden = memoryview(b"x")
        yield 0
        assert hidden

    with pytest.raises(TypeError, match="cannot be seen"):
        position(advanced(agent()), {})


def test_places_names_ways() -> None:
    """By attributes, keys and indices; each object once."""
    inner = Shared(2)
    shared: dict[str, Any] = {"a": [inner, inner], "b": (inner, Shared(3))}
    named = places(shared)
    assert named[id(shared)] == ()
    assert named[id(inner)] in {("a", 0), ("a", 1), ("b", 0)}
    assert named[id(shared["b"][1])] == ("b", 1)
    empty: Iterator[int] = iter(())
    assert id(empty) not in named
