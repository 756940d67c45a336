"""The whole host, by itself, does what the hosts of the recordings did: notifier calls, ranges, page tables."""

from pathlib import Path

import pytest

from cocotb_tests.inputs.kvm_recording import read_kvm_recording
from cocotb_tests.unit.pymodel.host.player import Player
from pymodel.host.kernel import HOST_6_12, HOST_6_13, HostKernel

DATA = Path(__file__).resolve().parents[3] / "data" / "kvm"
NOT_PLAYED = {
    "age_damon": "reclaims by its own timing",
    "age_lrugen": "reclaims by its own timing",
    "race_vcpus": "two guests at once",
    "longmode": "the recorder writes the guest's page tables, which the steps do not show",
    "dirty_1g_eager": "slow: a gigabyte in 4K entries is checked after every step; fault_hugetlb_1g has the same host",
    "nx_huge_1g": "slow, for the same reason",
}
RECORDINGS = sorted(path for path in DATA.glob("*/*.jsonl.gz") if path.name.split(".")[0] not in NOT_PLAYED)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_host_does_what_was_recorded(path: Path) -> None:
    """Every notifier call of every step, in order, with its range and event; every host entry after it."""
    player = Player(read_kvm_recording(path))
    player.play()
    assert player.differences == [], "\n".join(player.differences[:3])
    assert player.steps > 10


def test_recordings_are_there_and_show_notifiers() -> None:
    """The comparison above would hold for nothing at all."""
    players = [Player(read_kvm_recording(DATA / name)) for name in ("6.1/remap.jsonl.gz", "6.12/fork_4k.jsonl.gz")]
    for player in players:
        player.play()
    assert [player.calls for player in players] == [20, 10]
    assert len(RECORDINGS) > 25


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("6.1/ksm", HOST_6_12), ("6.1/pageout", HOST_6_12), ("6.1/fault_hugetlb_1g", HOST_6_12),
     ("6.1/random_lazy", HOST_6_12), ("6.12/fault_thp", HOST_6_13)],
)  # fmt: skip
def test_another_kernel_is_told_apart(name: str, kernel: HostKernel) -> None:
    player = Player(read_kvm_recording(DATA / f"{name}.jsonl.gz"), kernel)
    player.play()
    assert player.differences
