"""Cycles in which nothing can happen: the lock-step passes them in one go and does exactly what it did before."""

from typing import Any

import pytest

from cocotb_tests.harness.errors import Hang, Mismatch
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.job import JobContext, load_factory
from cocotb_tests.harness.lockstep import JUDGES, LockStep
from cocotb_tests.harness.smoke import job as smoke
from cocotb_tests.harness.stimulus import PARAMETER_SETS
from pymodel.effects import WaitFor
from pymodel.spec.params import PRESETS, IommuParams

JOBS = "cocotb_tests.bench.jobs"
RANDOM = "cocotb_tests.harness.stimulus:random_job"


def run(bench: LockStep, mode: str) -> tuple[dict[str, Any], int]:
    """Run on the model: every cycle in full, by `cycle` alone, or with `skip`; the summary and the rests."""
    model = bench.model
    assert model is not None
    rests = 0
    while bench.cycle(model.observe()) is not None:
        if mode == "full":
            bench._calm_until = 0
        elif bench.rest:
            rests += 1
            if mode == "skip":
                bench.skip(bench.rest)
    return bench.finish(), rests


CASES: list[tuple[str, IommuParams, int, dict[str, object], int]] = [
    ("cocotb_tests.harness.smoke:job", PRESETS["default"], 1, {"latency": 50}, 10),
    (f"{JOBS}:throughput", PRESETS["small"], 1, {"workload": "rand2000", "latency": 100}, 200),
    (f"{JOBS}:invalidations", PRESETS["default"], 1, {"latency": 20, "walks": True}, 20),
    (f"{JOBS}:depths", PRESETS["default"], 1, {"latency": 100}, 100),
]
CASES += [  # seeds 28 and 182 have consumers that are always ready; the others draw in every cycle and never rest
    (RANDOM, PARAMETER_SETS[name], seed, {"params": name, "cycles": 4000}, least)
    for name in ("tiny", "rewalk", "amd", "default")
    for seed, least in ((8, 0), (28, 1), (182, 1))
]


@pytest.mark.parametrize(("job", "params", "seed", "parameters", "least"), CASES)
def test_rests_change_nothing(
    job: str, params: IommuParams, seed: int, parameters: dict[str, object], least: int
) -> None:
    """Same events in the same cycles, same counts; and there are rests where memory is slow."""
    found = []
    for mode in ("full", "cycle", "skip"):
        context = JobContext(params, seed, JUDGES, EventLog())
        summary, rests = run(load_factory(job)(context, **parameters), mode)
        found.append(summary)
        assert mode == "full" or rests >= least
    assert found[0] == found[1] == found[2]


def resting() -> LockStep:
    """A bench in the middle of a rest of some cycles."""
    bench = smoke(JobContext(PRESETS["small"], 1), latency=50)
    assert bench.model is not None
    while bench.rest < 5:
        bench.cycle(bench.model.observe())
    bench.cycle(bench.model.observe())
    return bench


@pytest.mark.parametrize("bit", [0, 1, 7, 100, 400])
def test_changed_observation_in_a_rest_is_a_mismatch_in_its_cycle(bit: int) -> None:
    bench = resting()
    assert bench.model is not None
    bench.skip(2)
    cycle = bench.now
    with pytest.raises(Mismatch) as caught:
        bench.cycle(bench.model.observe() ^ 1 << bit)
    assert caught.value.cycle == cycle
    assert caught.value.history
    assert caught.value.replay


def test_hang_in_a_rest_is_found_in_its_cycle() -> None:
    """The checks of the end that fall into a rest are made, each for its own cycle."""
    found = []
    for mode in ("full", "cycle", "skip"):
        bench = JobContext(PRESETS["small"], 1).lockstep(hang_limit=300, answers_expected=False)
        bench.scheduler.add("wait", iter_wait())
        with pytest.raises(Hang) as caught:
            run(bench, mode)
        found.append((caught.value.cycle, str(caught.value), caught.value.history))
    assert found[0] == found[1] == found[2]


def iter_wait() -> Any:
    """Waits for what never comes."""
    yield WaitFor(0x1000, 1, 1)
