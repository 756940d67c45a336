"""Sets of gfns against a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from pymodel.kvm.gfn_set import GfnSet


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.booleans()), max_size=20))
def test_gfn_set_is_a_set(changes: list[tuple[int, int, bool]]) -> None:
    ours = GfnSet()
    plain: set[int] = set()
    for start, length, present in changes:
        ours.change(start, start + length, present)
        plain = plain | set(range(start, start + length)) if present else plain - set(range(start, start + length))
    assert {gfn for gfn in range(60) if gfn in ours} == plain
    assert {gfn for start, end in ours.ranges() for gfn in range(start, end)} == plain
    for start in range(0, 56, 7):
        assert ours.mixed(start, start + 4) == (len(plain & set(range(start, start + 4))) in (1, 2, 3))
