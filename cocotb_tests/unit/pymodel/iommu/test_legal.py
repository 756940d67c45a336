"""Legal sets of single accesses, each with the twin that has to be a violation."""

import pytest

from cocotb_tests.unit.pymodel.iommu.setting import (
    BASE,
    CONTEXTS,
    DID,
    DOMAIN,
    GLOBAL,
    LEAF_2M,
    M2,
    OTHER_PT,
    PD,
    PDPT,
    PT,
    SID,
    Setting,
    context_entry,
    hit,
    page,
    words,
)
from pymodel.iommu import Request
from pymodel.iommu.coverage import Invalidation
from pymodel.iommu.queue import ContextInvalidation, IotlbInvalidation
from pymodel.spec.descriptors import Granularity
from pymodel.spec.params import Architecture, IommuParams

NEW = 0x7777_0000


def test_unchanged_tables_leave_one_outcome() -> None:
    setting = Setting()
    assert setting.legal(0x5123) == {hit(BASE + 0x5123)}


def test_map_without_invalidation_is_seen_at_once() -> None:
    setting = Setting()
    assert setting.results(0x9000) == {"READ_DENIED"}
    setting.store(PT + 8 * 9, NEW | 3)
    before = setting.time
    setting.tick()
    assert setting.results(0x9000) == {NEW}
    assert setting.results(0x9000, accepted=before - 1) == {NEW, "READ_DENIED"}
    got = next(iter(Setting().legal(0x9000)))
    assert setting.judge.check(Request(SID, None, 0x9000, False), setting.time, setting.time, got)


def test_unmap_before_and_after_completion() -> None:
    setting = Setting()
    setting.store(PT + 8 * 5, 0)
    setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.submit(page(0x5000))
    setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.complete()
    assert setting.results(0x5000) == {"READ_DENIED"}


def test_completion_counts_for_answers_after_it_whenever_they_were_asked() -> None:
    setting = Setting()
    asked = setting.tick()
    setting.store(PT + 8 * 5, 0)
    setting.submit(page(0x5000))
    done = setting.tick()
    setting.judge.completed(done)
    assert BASE + 0x5000 in setting.results(0x5000, accepted=asked)
    setting.tick()
    assert setting.results(0x5000, accepted=asked) == {"READ_DENIED"}


def test_a_store_after_submission_is_not_covered() -> None:
    setting = Setting()
    setting.submit(page(0x5000))
    setting.store(PT + 8 * 5, NEW | 3)
    setting.complete()
    assert setting.results(0x5000) == {BASE + 0x5000, NEW}


def test_store_and_doorbell_in_one_cycle_follow_the_order_of_the_calls() -> None:
    setting = Setting()
    now = setting.tick()
    setting.memory.store(PT + 8 * 5, NEW | 3)
    setting.judge.submitted(now, page(0x5000))
    setting.memory.store(PT + 8 * 6, NEW | 3)
    setting.judge.submitted(now, page(0x8000))
    setting.complete()
    assert setting.results(0x5000) == {NEW}
    assert setting.results(0x6000) == {BASE + 0x6000, NEW}


def test_a_violation_names_values_and_times() -> None:
    setting = Setting()
    setting.store(PT + 8 * 5, NEW | 3)
    setting.invalidate(page(0x5000))
    request = Request(SID, None, 0x5000, False)
    violation = setting.judge.check(request, setting.time, setting.time, hit(BASE + 0x5000))
    assert violation is not None
    text = str(violation)
    assert f"expected {NEW:#x} level 0 rw, got {BASE + 0x5000:#x} level 0 rw" in text
    assert f"PTE at {PT + 40:#x} = {NEW | 3:#x}, {BASE + 0x5003:#x} until 20" in text
    assert "\n" not in text
    assert setting.judge.check(request, setting.time, setting.time, hit(NEW)) is None


@pytest.mark.parametrize(("invalidation", "covers"), [
    (page(0x5000), True),
    (page(0x4000, 1), True),
    (page(0, 9), True),
    (page(0x4000), False),
    (page(0x6000, 1), False),
    (page(0x5000, did=DID + 1), False),
    (DOMAIN, True),
    (IotlbInvalidation(Granularity.DOMAIN, DID + 1), False),
    (GLOBAL, True),
    (ContextInvalidation(Granularity.GLOBAL), False),
])  # fmt: skip
def test_what_covers_a_leaf(invalidation: Invalidation, covers: bool) -> None:
    setting = Setting()
    setting.store(PT + 8 * 5, NEW | 3)
    setting.invalidate(invalidation)
    expected: set[int | str] = {NEW} if covers else {NEW, BASE + 0x5000}
    assert setting.results(0x5000) == expected


def test_split_with_hint_keeps_the_pointer_and_without_hint_drops_it() -> None:
    for ih in (True, False):
        setting = Setting()
        for index in range(512):
            setting.memory.store(OTHER_PT + 8 * index, NEW + 4096 * index | 3)
        setting.tick()
        setting.store(PD, OTHER_PT | 3)  # another table in its place
        setting.invalidate(page(0x5000, ih=ih))
        expected: set[int | str] = {NEW + 0x5000, BASE + 0x5000} if ih else {NEW + 0x5000}
        assert setting.results(0x5000) == expected
        # Outside the range the leaf itself may be cached, pointer or not.
        assert setting.results(0x6000) == {NEW + 0x6000, BASE + 0x6000}


def test_merge_needs_the_invalidation_without_hint() -> None:
    for ih in (True, False):
        setting = Setting()
        setting.store(PD, BASE | LEAF_2M)
        setting.invalidate(page(0, 9, ih))
        setting.store(PT + 8 * 5, 0)  # the table is freed and cleared
        setting.tick()
        found = setting.legal(0x5000)
        assert hit(BASE + 0x5000, 1) in found
        assert (len(found) > 1) is ih  # the stale pointer leads into the freed table


def test_a_freed_table_serves_only_leaves_that_were_cached_before() -> None:
    setting = Setting()
    setting.store(PD, 0)
    setting.invalidate(page(0x5000))  # IH=0: drops the pointer and the leaf of this page only
    setting.store(PT + 8 * 6, NEW | 3)  # the freed page is used for something else
    setting.store(PT + 8 * 5, NEW | 3)
    setting.tick()
    assert setting.results(0x5000) == {"READ_DENIED"}
    assert setting.results(0x6000) == {"READ_DENIED", BASE + 0x6000}
    assert setting.results(0x9000) == {"READ_DENIED"}


def test_reuse_of_a_table_before_completion_is_the_software_s_fault() -> None:
    setting = Setting()
    setting.store(PD, 0)
    setting.submit(page(0x5000))
    setting.store(PT + 8 * 6, NEW | 3)
    setting.complete()
    assert setting.results(0x6000) == {"READ_DENIED", BASE + 0x6000, NEW}


@pytest.mark.parametrize("scope", list(Architecture))
def test_a_small_range_inside_a_large_leaf(scope: Architecture) -> None:
    setting = Setting(IommuParams(inval_scope=scope))
    setting.memory.store(PD + 8, BASE + M2 | LEAF_2M)
    setting.tick()
    setting.invalidate(GLOBAL)
    setting.store(PD + 8, NEW & -M2 | LEAF_2M)
    setting.invalidate(page(M2 + 0x7000))
    survives = scope is Architecture.AMD
    moved = (NEW & -M2) + 0x1000
    expected: set[int | str] = {moved, BASE + M2 + 0x1000} if survives else {moved}
    assert setting.results(M2 + 0x1000) == expected
    setting.invalidate(page(M2, 9))
    assert setting.results(M2 + 0x1000) == {moved}


@pytest.mark.parametrize("scope", list(Architecture))
def test_a_small_range_inside_the_span_of_a_pointer(scope: Architecture) -> None:
    setting = Setting(IommuParams(psc_scope=scope))
    for index in range(512):
        setting.memory.store(OTHER_PT + 8 * index, NEW + 4096 * index | 3)
    setting.tick()
    setting.store(PD, OTHER_PT | 3)
    setting.invalidate(page(0x5000))
    survives = scope is Architecture.AMD
    assert (BASE + 0x5000 in setting.results(0x5000)) is survives
    setting.invalidate(page(0, 9))
    assert setting.results(0x5000) == {NEW + 0x5000}


def test_an_upper_pointer_keeps_its_old_subtree_until_dropped() -> None:
    setting = Setting()
    setting.memory.store(OTHER_PT, PT | 1)  # a PD with a read-only pointer
    setting.tick()
    setting.store(PDPT, OTHER_PT | 3)
    setting.tick()
    assert setting.results(0x5000, True) == {BASE + 0x5000, "WRITE_DENIED"}
    setting.invalidate(page(0x5000, ih=True))
    assert setting.results(0x5000, True) == {BASE + 0x5000, "WRITE_DENIED"}
    setting.invalidate(page(0x5000))
    assert setting.results(0x5000, True) == {"WRITE_DENIED"}


def test_lesser_permission_may_refuse_until_invalidated() -> None:
    for rewalk in (False, True):
        setting = Setting(IommuParams(rewalk_on_perm=rewalk))
        setting.store(PT + 8 * 5, BASE + 0x5000 | 1)
        setting.invalidate(page(0x5000))
        assert setting.results(0x5000, True) == {"WRITE_DENIED"}
        setting.store(PT + 8 * 5, BASE + 0x5000 | 3)
        setting.tick()
        expected: set[int | str] = {BASE + 0x5000} if rewalk else {BASE + 0x5000, "WRITE_DENIED"}
        assert setting.results(0x5000, True) == expected
        setting.invalidate(page(0x5000))
        assert setting.results(0x5000, True) == {BASE + 0x5000}


def test_not_present_is_cached_only_with_np_cache() -> None:
    setting = Setting(IommuParams(np_cache=True))
    setting.store(PT + 8 * 9, NEW | 3)
    setting.tick()
    assert setting.results(0x9000) == {NEW, "READ_DENIED"}
    setting.invalidate(page(0x9000))
    assert setting.results(0x9000) == {NEW}


def test_malformed_entries_are_never_cached() -> None:
    setting = Setting()
    setting.store(PT + 8 * 5, BASE + 0x5000 | 3 | 1 << 62)
    bad = setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, "ENTRY_RESERVED"}
    setting.store(PT + 8 * 5, NEW | 3)
    setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, NEW}
    assert setting.results(0x5000, accepted=bad) == {BASE + 0x5000, NEW, "ENTRY_RESERVED"}


def test_either_reason_where_a_lower_entry_is_malformed() -> None:
    setting = Setting()
    setting.store(PD, PT | 1)
    setting.store(PT + 8 * 5, BASE + 0x5000 | 3 | 1 << 62)
    setting.invalidate(DOMAIN)
    assert setting.results(0x5000, True) == {"WRITE_DENIED", "ENTRY_RESERVED"}
    assert setting.results(0x5000, False) == {"ENTRY_RESERVED"}
    setting.store(PT + 8 * 5, BASE + 0x5000 | 1 | 1 << 62)
    setting.store(PD, PT | 3)
    setting.invalidate(DOMAIN)
    assert setting.results(0x5000, True) == {"WRITE_DENIED"}  # same entry: permission first


def test_context_history() -> None:
    setting = Setting()
    table = 0x20000
    words(setting.memory, table, 0, 1)
    setting.tick()
    words(setting.memory, CONTEXTS + 16 * SID, context_entry(table, DID + 1), 2)
    setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.invalidate(ContextInvalidation(Granularity.SELECTIVE, DID, SID + 8))
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.invalidate(ContextInvalidation(Granularity.SELECTIVE, DID, SID))
    assert setting.results(0x5000) == {"READ_DENIED"}  # the new domain has nothing cached


def test_same_domain_new_table_needs_the_iotlb_invalidation_too() -> None:
    setting = Setting()
    words(setting.memory, CONTEXTS + 16 * SID, context_entry(0x20000), 2)
    setting.invalidate(ContextInvalidation(Granularity.DOMAIN, DID))
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.invalidate(DOMAIN)
    assert setting.results(0x5000) == {"READ_DENIED"}


def test_a_reused_domain_id_may_serve_another_device_s_leaves() -> None:
    setting = Setting()
    assert setting.legal(0x5000)  # the first device uses the domain
    words(setting.memory, CONTEXTS + 16 * SID, 0, 2)
    words(setting.memory, CONTEXTS + 16 * 0x20, context_entry(0x20000), 2)
    setting.invalidate(ContextInvalidation(Granularity.GLOBAL))
    assert setting.results(0x5000, sid=0x20) == {BASE + 0x5000, "READ_DENIED"}
    setting.invalidate(DOMAIN)
    assert setting.results(0x5000, sid=0x20) == {"READ_DENIED"}


def test_root_pointer_and_enable_are_history_too() -> None:
    setting = Setting()
    other = 0x30000
    setting.memory.store(other, 0x31000 | 1)
    words(setting.memory, 0x31000 + 16 * SID, context_entry(0x20000, DID + 1), 2)
    setting.judge.set_root(setting.tick(), other)
    setting.tick()
    assert setting.results(0x5000) == {BASE + 0x5000, "READ_DENIED"}
    setting.invalidate(ContextInvalidation(Granularity.GLOBAL))
    assert setting.results(0x5000) == {"READ_DENIED"}
    off = setting.tick()
    setting.judge.enable(off, False)
    setting.tick()
    assert setting.results(0x5000) == {0x5000}
    assert setting.results(0x5000, accepted=off - 1) == {0x5000, "READ_DENIED"}


def test_interrupt_range() -> None:
    setting = Setting()
    assert setting.results(0xFEE0_1000, True) == {0xFEE0_1000}
    (refused,) = setting.legal(0xFEE0_1000)
    assert refused.reason.name == "INTERRUPT_ADDRESS"
    assert not refused.recorded
    setting.store(PT + 8 * 5, 0xFEE0_0000 | 3)
    setting.invalidate(page(0x5000))
    assert setting.results(0x5000) == {"INTERRUPT_ADDRESS"}


def test_addresses_beyond_the_table_and_unknown_sources() -> None:
    setting = Setting()
    assert setting.results(1 << 48) == {"ADDRESS_BEYOND_WIDTH"}
    assert setting.results(0, sid=0x1234) == {"ROOT_NOT_PRESENT"}
    assert setting.results(0, sid=0x40) == {"CONTEXT_NOT_PRESENT"}
    assert setting.results(0, pasid=3) == {"SM_PASID_IN_LEGACY"}
    assert setting.results(1 << 39) == {"READ_DENIED"}


def test_time_does_not_run_backwards() -> None:
    setting = Setting()
    setting.tick()
    with pytest.raises(ValueError, match="time goes from 20 back to 19"):
        setting.judge.advance(19)
