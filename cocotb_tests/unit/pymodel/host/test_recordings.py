"""The whole host, by itself, does what the hosts of the recordings did: notifier calls, ranges, page tables, data."""

from pathlib import Path

import pytest

from cocotb_tests.inputs.kvm_recording import read_kvm_recording
from cocotb_tests.unit.pymodel.host.player import Player
from pymodel.host.kernel import HOST_6_12, HOST_6_13, HostKernel

DATA = Path(__file__).resolve().parents[3] / "data" / "kvm"
NOT_CHECKED = ("dirty_1g_eager",)
"""A gigabyte in 4K entries: I1 to I7 are not looked at after every step."""
BY_ITSELF = {"longmode": frozenset((3,))}
"""Slots of page tables that the recorder writes for its guest; the guest's own walks are not played."""
RECORDINGS = sorted(DATA.glob("*/*.jsonl.gz"))


def played(name: str, kernel: HostKernel | None = None, *, invariants: bool = True) -> Player:
    """The recording `name` ("6.1/remap"), to its end."""
    untold = BY_ITSELF.get(name.split("/")[1], frozenset[int]())
    player = Player(read_kvm_recording(DATA / f"{name}.jsonl.gz"), kernel, untold)
    player.play(invariants=invariants)
    return player


@pytest.mark.parametrize("name", [f"{path.parent.name}/{path.name.split('.jsonl')[0]}" for path in RECORDINGS])
def test_host_does_what_was_recorded(name: str) -> None:
    """Every notifier call of every step, in order, with its range and event; every host entry after it; every read."""
    player = played(name, invariants=name.split("/")[1] not in NOT_CHECKED)
    found = player.differences
    if name.split("/")[1] in BY_ITSELF:
        found = [text for text in found if "reads" not in text and "access" not in text]
    assert found == [], "\n".join(found[:3])
    assert player.steps >= 10


def test_recordings_are_there_and_show_something() -> None:
    """The comparison above would hold for nothing at all."""
    players = [played(name) for name in ("6.1/remap", "6.12/fork_4k", "6.1/random_4k", "6.1/age_lrugen")]
    assert [(player.calls, player.reads, player.guard.taken) for player in players] == [
        (20, 3, 19), (10, 7, 17), (241, 117, 246), (338, 8, 596)]  # fmt: skip
    assert len(RECORDINGS) > 30


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("6.1/ksm", HOST_6_12), ("6.1/pageout", HOST_6_12), ("6.1/fault_hugetlb_1g", HOST_6_12),
     ("6.1/random_lazy", HOST_6_12), ("6.12/fault_thp", HOST_6_13)],
)  # fmt: skip
def test_another_kernel_is_told_apart(name: str, kernel: HostKernel) -> None:
    assert played(name, kernel, invariants=False).differences
