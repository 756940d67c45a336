"""Wave dumps: the committed views fit them, and an invalidation's timing can be read off them."""

import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pywellen import Waveform
from vcdvcd import VCDVCD

from cocotb_tests import wave_views
from cocotb_tests.harness import simulators
from cocotb_tests.harness.cosim import cosimulate
from hdl.formats.context import ContextStage
from hdl.walker import SlotState
from pymodel.spec.observation import Apply, QueueState, WriteId, fetch_id, read_id_bits
from pymodel.spec.params import PRESETS, IommuParams

PARAMS = IommuParams()
SMALL = PRESETS["small"]
JOB, PARAMETERS = "cocotb_tests.bench.jobs:invalidations", {"latency": 7, "walks": True, "rounds": 6}
WAVES = Path(__file__).resolve().parents[1] / "waves"
OUTPUTS, EVENTS = "bench_top.iommu.observer.outputs", "bench_top.iommu.observer.happened"

Sampler = Callable[[str], list[int]]
"""Name of a signal -> its value in each cycle."""


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VCD of invalidations while every request misses."""
    if "verilator" not in simulators.available():
        pytest.skip("verilator is not installed")
    path = tmp_path_factory.mktemp("waves") / "dump.vcd"
    cosimulate("verilator", PARAMS, JOB, seed=3, job_parameters=PARAMETERS, waves=path)
    return path


def sampler(changes: Callable[[str], list[tuple[int, int]]]) -> Sampler:
    """Values that the rising edges of the clock see; `changes` gives (time, value) of a signal."""
    edges = [time for time, value in changes("bench_top.clk") if value]

    def sample(name: str) -> list[int]:
        found = changes(name)
        times = [time for time, _ in found]
        return [found[max(0, bisect_left(times, edge) - 1)][1] for edge in edges]

    return sample


def vcd_sampler(path: Path, names: list[str]) -> Sampler:
    """A sampler over a VCD."""
    dump = VCDVCD(str(path), signals=["bench_top.clk", *names])

    def changes(name: str) -> list[tuple[int, int]]:
        return [(time, int(value, 2)) for time, value in dump[name].tv]

    return sampler(changes)


def fst_sampler(path: Path) -> Sampler:
    """A sampler over an FST; ranges are no part of its names."""
    found: dict[str, Any] = {variable.full_name: variable for variable in Waveform(str(path)).all_vars()}

    def changes(name: str) -> list[tuple[int, int]]:
        return [(time, int(value)) for time, value in found[re.sub(r"\[\d+:0\]$", "", name)].tv]

    return sampler(changes)


def names(params: IommuParams) -> dict[str, str]:
    """The signals that tell about an invalidation."""
    identifier, slots = read_id_bits(params) - 1, params.walk_slots - 1
    return {
        "valid": "bench_top.read_data__valid",
        "id": f"bench_top.read_data__payload.id[{identifier}:0]",
        "state": f"{OUTPUTS}.queue_state[2:0]",
        "apply": f"{EVENTS}.apply[1:0]",
        "write": f"{OUTPUTS}.writes_valid",
        "write_id": f"{OUTPUTS}.writes_id[1:0]",
        "busy": f"{OUTPUTS}.slots_busy[{slots}:0]",
    }


def check_invalidations(params: IommuParams, sample: Sampler) -> None:
    """I10 for every descriptor line of the dump: decode in A+1, apply in A+2, status write in A+2k+4."""
    wave = {name: sample(path) for name, path in names(params).items()}
    queue, cycles = fetch_id(params), range(len(wave["valid"]))
    arrivals = [cycle for cycle in cycles if wave["valid"][cycle] and wave["id"][cycle] == queue]
    status = [cycle for cycle in cycles if wave["write"][cycle] and wave["write_id"][cycle] == WriteId.STATUS]
    assert len(arrivals) == len(status) == PARAMETERS["rounds"]
    counts = []
    for arrival, written in zip(arrivals, status, strict=True):
        assert wave["state"][arrival] == QueueState.FETCHING
        assert wave["state"][arrival + 1] == QueueState.DECODE
        assert wave["state"][arrival + 2] == QueueState.APPLY
        applied = [cycle - 1 for cycle in range(arrival, written) if wave["apply"][cycle] == Apply.IOTLB]
        assert applied == [arrival + 2 * number for number in range(1, len(applied) + 1)]
        assert written == arrival + 2 * len(applied) + 4
        assert wave["busy"][arrival + 2] == (1 << params.walk_slots) - 1, "all walk slots were busy"
        counts.append(len(applied))
    assert counts == [1, 2, 3] * (len(arrivals) // 3)


def test_invalidation_timing_in_a_vcd(dump: Path) -> None:
    """I10 from the wave alone."""
    check_invalidations(PARAMS, vcd_sampler(dump, list(names(PARAMS).values())))


def test_invalidation_timing_in_an_fst(tmp_path: Path) -> None:
    """The same from the compressed format, on a small design."""
    if "verilator" not in simulators.available() or simulators.wave_format("verilator") != "fst":
        pytest.skip("verilator or the lz4 headers are not installed")
    path = tmp_path / "dump.fst"
    cosimulate("verilator", SMALL, JOB, seed=3, job_parameters=PARAMETERS, waves=path)
    check_invalidations(SMALL, fst_sampler(path))


def test_views_name_signals_that_exist(dump: Path) -> None:
    """Every signal of the views is in a dump, once, with its width."""
    present = set(VCDVCD(str(dump), only_sigs=True).signals)
    assert [name for name in wave_views.signals() if name not in present] == []
    assert len(list(wave_views.signals())) > 120


def test_views_split_scopes_from_names(dump: Path) -> None:
    """Surfer's scopes are those of the hierarchy: its own reader finds each scope, and each name in it."""
    waveform = Waveform(str(dump))
    present = {variable.full_name for variable in waveform.all_vars()}
    scope_names = {scope.full_name for scope in waveform.all_scopes()}
    state = wave_views.files()["iommu.surf.ron"]
    named = re.findall(r'strs: \[([^\]]*)\], id: Wellen\(\(\d+\)\)\), name: "([^"]*)"', state)
    assert len(named) == len(list(wave_views.signals()))
    for scopes, name in named:
        scope = ".".join(re.findall(r'"([^"]*)"', scopes))
        assert scope in scope_names
        assert f"{scope}.{name}" in present
        inner = f"{scope}.{name}".rpartition(".")[0]
        assert inner == scope or inner not in scope_names, f"{inner} is a scope, not a record"


def test_committed_views_are_the_generated_ones() -> None:
    """`python -m cocotb_tests.wave_views` changes nothing."""
    generated = wave_views.files()
    committed = {name: (WAVES / name).read_text() for name in generated if (WAVES / name).exists()}
    assert committed == generated


def test_views_know_the_states_of_the_rtl() -> None:
    """Names and codes of slot states and context stages are those of the RTL."""
    for kind, known in ((SlotState, wave_views.SLOT_STATES), (ContextStage, wave_views.STAGES)):
        members: Any = kind
        assert {member.value: member.name for member in members} == known


def test_views_balance() -> None:
    """Groups are closed, brackets match, decoder files that are named exist."""
    generated = wave_views.files()
    view = generated["iommu.gtkw"].splitlines()
    begins = [view[at + 1] for at, line in enumerate(view) if line in ("@800200", "@c00200")]
    ends = [view[at + 1] for at, line in enumerate(view) if line in ("@1000200", "@1401200")]
    assert begins == ends == [f"-{group.name}" for group in wave_views.GROUPS]
    named = set(re.findall(r"\^1 waves/(\w+\.txt)", generated["iommu.gtkw"]))
    assert named == {f"{name}.txt" for name in wave_views.DECODERS}
    state = generated["iommu.surf.ron"]
    for opening, closing in ("()", "[]", "{}"):
        assert state.count(opening) == state.count(closing)
    refs = re.findall(r"item_ref: \((\d+)\)", state)
    assert refs == [str(number) for number in range(1, len(refs) + 1)]
