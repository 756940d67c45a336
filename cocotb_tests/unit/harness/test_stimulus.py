"""Random plans: drawn from the seed alone, and they do what they are for."""

from typing import Any

import pytest

from cocotb_tests.harness.errors import HarnessError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import run_model_lane
from cocotb_tests.harness.stimulus import PARAMETER_SETS, RandomPlan, _reset_cycles, random_job


def run(seed: int, name: str, cycles: int = 4000) -> tuple[dict[str, Any], str]:
    log = EventLog()
    context = JobContext(PARAMETER_SETS[name], seed, {"cycle", "protocol"}, log)
    return run_model_lane(random_job(context, name, cycles))["statistics"], log.sha256


@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_random_job_passes_on_the_model(name: str) -> None:
    statistics, _ = run(11, name)
    assert statistics["translations"] > 20
    assert statistics["register_accesses"] > 20
    assert statistics["status_writes"] > 0


def test_same_seed_is_the_same_run_and_another_is_another() -> None:
    assert run(5, "small") == run(5, "small")
    assert run(5, "small")[1] != run(6, "small")[1]


def test_runs_reach_every_kind_of_event() -> None:
    totals: dict[str, int] = {}
    for seed in range(12):
        statistics, _ = run(seed, "small" if seed % 2 else "amd")
        for name, value in statistics.items():
            if isinstance(value, int):
                totals[name] = totals.get(name, 0) + value
        lookups = statistics["lookups"]
        assert isinstance(lookups, dict)
        for name, value in lookups.items():
            totals[f"lookup {name}"] = totals.get(f"lookup {name}", 0) + value
    assert [name for name, value in totals.items() if not value] == []


def test_plan_is_the_same_for_the_same_seed() -> None:
    assert RandomPlan.from_seed(77) == RandomPlan.from_seed(77)
    assert RandomPlan.from_seed(77).describe().startswith("seed 77, params ")


def test_seeds_draw_all_parameter_sets_and_runs_with_and_without_resets() -> None:
    plans = [RandomPlan.from_seed(seed) for seed in range(100)]
    assert {plan.name for plan in plans} == set(PARAMETER_SETS)
    calm = {bool(plan.calm): plan.describe() for plan in plans}
    assert calm[False].endswith(", no reset")
    assert " reset in " in calm[True]


def test_resets_come_in_order_at_any_moment_and_end_before_the_run() -> None:
    cycles, lengths, gaps = 5000, set(), set()
    for seed in range(200):
        end = 0
        for at, length in _reset_cycles(RandomPlan.from_seed(seed), cycles):
            gaps.add(at - end)
            lengths.add(length)
            assert end < at < cycles
            end = at + length
    assert lengths == {1, 2, 5}
    assert min(gaps) < 10
    assert len(gaps) > 300


def test_resets_take_requests_and_nothing_else_changes_the_verdict() -> None:
    plans = [seed for seed in range(60) if RandomPlan.from_seed(seed).calm == 600]
    lost = resets = 0
    for seed in plans[:8]:
        statistics, _ = run(seed, "amd")
        assert statistics["accepted"] == statistics["answers"] + statistics["lost"]
        lost, resets = lost + statistics["lost"], resets + statistics["resets"]
    assert resets > 30
    assert lost > 50


def test_wrong_parameter_set_is_named() -> None:
    with pytest.raises(HarnessError, match=r"parameter set must be one of tiny, small, .*, not 'huge'"):
        RandomPlan.from_seed(1, "huge")
