"""Versions: which release brought which difference, and that nothing is ever given the behaviour of no kernel."""

from dataclasses import fields, replace

import pytest

from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_10, V6_12, V6_13, V6_18, KvmVersion, is_known, kernel, version_for

_FIRST_WITH = {
    "suppress_ve_empty": 10, "ret_invalid": 12, "ret_fixed": 12, "ret_spurious": 12, "split_on_fault": 2,
    "flush_before_children": 10, "root_zap_levels": 9, "nx_mark_every_table": 2, "nx_recovery_shared": 18,
    "early_retry": 9, "retry_by_gfn": 8, "private_memory": 8, "has_change_pte": 10, "clear_split_short": 8,
    "clear_bits_atomic": 4, "split_unlocks": 11, "parent_flush_range": 2, "invalid_root_flush": 9,
    "slot_zap_quirk": 12, "recover_huge": 13, "spurious_early": 13, "dirty_always": 13, "age_flushes": 13,
    "age_locked": 15, "emulator_retries": 12, "pre_fault": 11, "load_flushes_guest": 12, "guest_memory_type": 11,
    "noncoherent_zaps": 7, "cd_ignores_pat": 7, "dying_roots_too": 9, "roots_shared": 9, "mismatch_first": 10,
    "mismatch_not_fast": 11, "software_ad": 13, "age_dying_roots": 14, "destroy_exclusive": 14,
    "prefetch_needs_leaf": 15, "pre_fault_gives_up": 18,
}  # fmt: skip
"""First minor release of Linux 6 whose value is not that of 6.1; copied by hand from facts.md and the kernel's log."""


def test_every_field_changes_once_at_its_release() -> None:
    assert set(_FIRST_WITH) == {field.name for field in fields(KvmVersion)} - {"name"}
    for name, minor in _FIRST_WITH.items():
        values = [getattr(kernel(6, one), name) for one in range(1, 19)]
        assert values[: minor - 1] == [getattr(V6_1, name)] * (minor - 1), name
        assert values[minor - 1 :] == [values[-1]] * (19 - minor), name
        assert values[0] != values[-1], name


@pytest.mark.parametrize(
    ("release", "version", "known"),
    [
        ("6.1.0-56-amd64", V6_1, True),
        ("5.15.0", V6_1, False),
        ("6.7-rc1", V6_7, True),
        ("6.8.12-generic", V6_8, True),
        ("6.10", V6_10, True),
        ("6.12.117+deb12-amd64", V6_12, True),
        ("6.13.1", V6_13, True),
        ("6.18.0", V6_18, True),
        ("6.19", V6_18, False),
        ("7.0", V6_18, False),
    ],
)
def test_kernel_release_picks_the_nearest_version(release: str, version: KvmVersion, known: bool) -> None:
    assert version_for(release) == version
    assert is_known(release) is known


def test_releases_between_two_named_ones_have_a_name_of_their_own() -> None:
    assert kernel(6, 5) == replace(kernel(6, 4), name="6.5")
    assert kernel(6, 16) == replace(kernel(6, 15), name="6.16")
    assert kernel(6, 14) == replace(V6_13, name="6.14", age_dying_roots=False, destroy_exclusive=True)


@pytest.mark.parametrize("release", ["", "six", "6", "6.x", ".1", "6.", "\N{SUPERSCRIPT SIX}.1"])
@pytest.mark.parametrize("function", [version_for, is_known])
def test_release_wrong_text(release: str, function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"must start with MAJOR\.MINOR, not "):
        function(release)
