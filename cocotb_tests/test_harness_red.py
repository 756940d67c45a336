"""The harness goes red: for broken RTL, a broken model, broken ports, a stale answer, and a broken bench."""

import dataclasses
import re

import pytest

from cocotb_tests.harness.cosim import CosimFailed, cosimulate
from cocotb_tests.harness.errors import JudgeError
from cocotb_tests.harness.job import run_job_on_model
from cocotb_tests.harness.simulators import available
from cocotb_tests.harness.smoke import __name__ as smoke
from pymodel.spec.params import PRESETS

PARAMS = PRESETS["small"]
BROKEN = "cocotb_tests.red_jobs:broken"
ALL = ("cycle", "legal", "protocol")


def red(simulator: str, what: str, judges: tuple[str, ...] = ALL, seed: int = 1) -> CosimFailed:
    """Run the job with `what` broken; it must fail."""
    with pytest.raises(CosimFailed) as caught:
        cosimulate(
            simulator,
            PARAMS,
            BROKEN,
            seed=seed,
            job_parameters={"what": what},
            judges=judges,
            timeout_s=120,
            keep_failed=False,
        )
    return caught.value


@pytest.mark.parametrize("simulator", available())
def test_unbroken_job_is_green(simulator: str) -> None:
    result = cosimulate(simulator, PARAMS, f"{smoke}:job", seed=1)
    assert result.summary["statistics"]["cycles_compared"] == result.summary["cycles"] > 200
    assert result.summary["statistics"]["translations"] == 33


@pytest.mark.parametrize("simulator", available())
def test_flipped_bit_of_the_rtl_is_a_mismatch(simulator: str) -> None:
    failure = red(simulator, "bit")
    assert failure.kind == "Mismatch"
    assert len(failure.result["fields"]) == 1
    assert "replay: " in str(failure)
    assert "seed 1" in str(failure)


@pytest.mark.parametrize("seed", range(2, 8))
def test_any_flipped_bit_is_a_mismatch_with_one_field(seed: int) -> None:
    failure = red("verilator", "bit", seed=seed)
    assert failure.kind == "Mismatch"
    assert len(failure.result["fields"]) == 1
    assert 0 < failure.result["cycle"] < 250


def test_broken_model_is_a_mismatch() -> None:
    assert red("verilator", "model").kind == "Mismatch"


def test_broken_port_is_found_by_the_protocol_checkers_alone() -> None:
    failure = red("verilator", "tag", judges=("protocol",))
    assert failure.kind == "ProtocolError"
    assert "rule L4" in str(failure)


def test_wrong_page_is_found_by_the_architectural_judge_alone() -> None:
    failure = red("verilator", "address", judges=("legal",))
    assert failure.kind == "JudgeError"
    assert "expected" in str(failure)


@pytest.mark.parametrize(
    ("what", "rule"), [("status", "rule M1: the status write"), ("read", r"rule W2: slots 0b1 must read")]
)
def test_port_that_comes_late_or_says_something_else_is_found_by_its_rule(what: str, rule: str) -> None:
    failure = red("verilator", what, judges=("protocol",))
    assert failure.kind == "ProtocolError"
    assert re.search(rule, str(failure))


@pytest.mark.parametrize(
    ("what", "text"), [("record", "PPF must be 0, not 1"), ("overflow", "fault overflow although record 0 was free")]
)
def test_fault_log_is_judged_in_every_run(what: str, text: str) -> None:
    failure = red("verilator", what, judges=("legal",))
    assert failure.kind == "JudgeError"
    assert text in str(failure)


def test_lost_answer_is_found_without_the_cycle_model() -> None:
    assert red("verilator", "lost", judges=("protocol",)).kind == "Hang"


@pytest.mark.parametrize("lane", ["model", "verilator"])
def test_stale_answer_of_a_walk_that_is_not_restarted_is_found_by_the_architectural_judge(lane: str) -> None:
    job = "cocotb_tests.red_jobs:late_walk"
    wrong = dataclasses.replace(PARAMS, walk_drain=False)
    if lane == "model":
        run_job_on_model(job, PARAMS, 1)
        with pytest.raises(JudgeError):
            run_job_on_model(job, wrong, 1)
    else:
        assert cosimulate(lane, PARAMS, job, seed=1).summary["statistics"]["killed"] > 0
        with pytest.raises(CosimFailed) as caught:
            cosimulate(lane, wrong, job, seed=1, keep_failed=False)
        assert caught.value.kind == "JudgeError"
        cosimulate(
            lane, wrong, job, seed=1, judges=("cycle", "protocol")
        )  # RTL and model agree on the wrong thing


@pytest.mark.parametrize(
    ("what", "kind"),
    [("empty", "EmptyRun"), ("no answers", "EmptyRun"), ("factory", "ValueError"), ("agent", "ValueError"),
     ("hang", "Hang"), ("nonsense", "HarnessError")],
)  # fmt: skip
def test_broken_bench_is_red(what: str, kind: str) -> None:
    failure = red("verilator", what)
    assert failure.kind == kind
    assert "on purpose" in str(failure) or kind not in ("ValueError",)


@pytest.mark.parametrize(
    "job", ["cocotb_tests.red_jobs:nothing", "cocotb_tests.nothing:job", "cocotb_tests.red_jobs"]
)
def test_job_that_does_not_exist_is_red(job: str) -> None:
    with pytest.raises(CosimFailed) as caught:
        cosimulate("verilator", PARAMS, job, seed=1, keep_failed=False)
    assert caught.value.kind == "HarnessError"
    assert "nothing" in str(caught.value) or "must be named" in str(caught.value)
