"""The slots by id, gfn and host address, against a plain list (facts C0, C1 step 6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymodel.kvm.errors import KvmError
from pymodel.kvm.memslots import Memslot, Memslots

_SLOT = st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 60), st.integers(1, 12), st.integers(0, 30))


@given(st.lists(_SLOT, max_size=12), st.integers(0, 80), st.integers(1, 20))
def test_lookups_agree_with_a_plain_list(wanted: list[tuple[int, int, int, int, int]], start: int, length: int) -> None:
    slots = Memslots()
    plain: dict[tuple[int, int], Memslot] = {}
    for ident, as_id, base, npages, page in wanted:
        slot = Memslot(ident, base, npages, page << 12, 0, as_id)
        try:
            slots.check_free(slot, base)
        except KvmError:
            others = [one for one in plain.values() if (one.as_id, one.ident) != (as_id, ident)]
            assert any(
                one.as_id == as_id and one.base_gfn < base + npages and base < one.end_gfn for one in others
            )
            continue
        slots.install(slot)
        plain[as_id, ident] = slot
    end = start + length
    for as_id in (0, 1):
        for gfn in range(80):
            holders = [one for one in plain.values() if one.as_id == as_id and one.base_gfn <= gfn < one.end_gfn]
            holder = holders[0] if holders else None
            assert slots.find(gfn, as_id) is holder
    touched = {
        (one.as_id, one.ident, gfn)
        for one in plain.values()
        for gfn in range(one.base_gfn, one.end_gfn)
        if start <= gfn < end
    }
    found = slots.in_gfn_range(start, end)
    assert {(one.as_id, one.ident, gfn) for one, low, high in found for gfn in range(low, high)} == touched
    order = [(one.as_id, one.base_gfn) for one, _, _ in found]
    assert order == sorted(order)
    touched = {
        (one.as_id, one.ident, gfn)
        for one in plain.values()
        for gfn in range(one.base_gfn, one.end_gfn)
        if start <= one.hva_of(gfn) >> 12 < end
    }
    by_hva = slots.in_hva_range((start << 12) + 5, (end << 12) - 5)
    assert {(one.as_id, one.ident, gfn) for one, low, high in by_hva for gfn in range(low, high)} == touched
    for as_id, ident in list(plain):
        slots.remove(ident, as_id)
    assert list(slots) == []


def test_generations_of_two_address_spaces_never_meet() -> None:
    slots = Memslots()
    seen = [{slots.generation(as_id)} for as_id in (0, 1)]
    for as_id in (0, 1, 1, 0, 1):
        slots.advance(as_id)
        seen[as_id].add(slots.generation(as_id))
    assert seen == [{0, 2, 4}, {1, 3, 5, 7}]


@pytest.mark.parametrize(
    ("gfn", "level", "disallowed"),
    [(511, 2, True), (512, 2, False), (1023, 2, False), (1536, 2, True), (512, 3, True), (600, 1, False)],
)
def test_huge_pages_must_lie_inside_the_slot(gfn: int, level: int, disallowed: bool) -> None:
    slot = Memslot(0, 100, 1500, (100 << 12) + (1 << 40), 0)
    assert slot.lpage_disallowed(gfn, level) is disallowed
