"""The lock-step on the model lane: jobs run, drain and end; failures say what, where and how to replay."""

from collections.abc import Iterator
from typing import Any

import pytest

from cocotb_tests.harness.errors import EmptyRun, Hang, HarnessError, Mismatch
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.host import RAM, Device, Host
from cocotb_tests.harness.job import JobContext, params_from_json, params_to_json, run_job_on_model
from cocotb_tests.harness.lockstep import JUDGES, LockStep, run_model_lane
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.patterns import ReadyPattern
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Translate
from cocotb_tests.harness.stimulus import PARAMETER_SETS
from cocotb_tests.harness.traffic import ListedTraffic
from pymodel.effects import Delay, ReadRegister, WaitFor
from pymodel.memory import PhysMem
from pymodel.paging.update import map_range
from pymodel.spec.faults import Reason
from pymodel.spec.params import PRESETS, IommuParams
from pymodel.spec.registers import REGISTERS

SMOKE = "cocotb_tests.harness.smoke:job"


def bench(
    params: IommuParams = PRESETS["default"], pages: int = 64, **options: object
) -> tuple[LockStep, Device]:
    """A started IOMMU with one device whose pages at 0x40_0000 go to 0x1_2340_0000."""
    memory = PhysMem([RAM])
    lockstep = JobContext(params, 3).lockstep(memory=memory, **options)
    host = Host(params, memory)
    domain = host.domain(5)
    host.build(map_range(domain.table, 0x40_0000, 0x1_2340_0000, pages << 12, max_level=0))
    device = Device(0x0300, domain=domain)
    host.build(host.attach(device))
    lockstep.scheduler.add("start", host.start())
    return lockstep, device


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scalable", [False, True])
def test_smoke_job_passes_all_judges(preset: str, scalable: bool) -> None:
    summary = run_job_on_model(SMOKE, PRESETS[preset], 1, EventLog(), scalable=scalable)
    statistics = summary["statistics"]
    assert statistics["translations"] == 33
    assert statistics["cycles_compared"] == summary["cycles"] > 100
    assert statistics["invalidations"] == statistics["faults_answered"] == 1
    assert summary["log_events"] > 100


@pytest.mark.parametrize("judges", [JUDGES, {"cycle"}, {"cycle", "protocol"}])
def test_judges_do_not_change_what_happens(judges: set[str]) -> None:
    log = EventLog()
    lockstep = JobContext(PRESETS["small"], 1, judges, log)
    from cocotb_tests.harness.smoke import job

    run_model_lane(job(lockstep))
    reference = EventLog()
    run_model_lane(job(JobContext(PRESETS["small"], 1, JUDGES, reference)))
    assert log.sha256 == reference.sha256


def test_without_the_cycle_judge_the_observation_is_decoded() -> None:
    from cocotb_tests.harness.smoke import job

    lane = job(JobContext(PRESETS["small"], 1, {"cycle"}))
    follower = job(JobContext(PRESETS["small"], 1, {"protocol", "legal"}))
    assert lane.model is not None
    assert follower.model is None
    while True:
        obs = lane.model.observe()
        inputs, other = lane.cycle(obs), follower.cycle(obs)
        assert inputs == other
        if inputs is None:
            break
    assert follower.finish()["statistics"]["cycles_compared"] == 0


def test_hits_stream_one_a_cycle_and_take_two_cycles() -> None:
    lockstep, device = bench()

    def requests() -> Iterator[Translate]:
        for count in range(300):
            yield Translate(device.sid, 0x40_0000 + (count % 8 << 12))

    source = ListedTraffic(requests(), start=200, keep=True)
    lockstep.add_source(source)
    run_model_lane(lockstep)
    assert len(source.answers) == 300
    warm = sorted(source.answers, key=lambda answer: answer.accepted_at)[
        -200:
    ]  # the first ones wait for the walk
    assert {answer.port for answer in warm} == {"hits"}
    assert {answer.answered_at - answer.accepted_at for answer in warm if answer.answered_at is not None} == {
        2
    }
    accepted = sorted(answer.accepted_at for answer in source.answers)[-100:]
    assert accepted[-1] - accepted[0] == 99


def test_answers_come_back_to_the_agent_that_asked() -> None:
    lockstep, device = bench()
    seen = []

    def software() -> BenchAgent[None]:
        yield Delay(100)
        for iova in (0x40_0000, 0x50_0000):
            handle = yield Translate(device.sid, iova)
            assert not handle.done
            seen.append((yield Answer(handle)))
        seen.append((yield ReadRegister(REGISTERS["CAP"].offset, 8)))
        seen.append((yield ReadRegister(REGISTERS["CAP"].offset + 4, 4)))

    lockstep.scheduler.add("software", software())
    run_model_lane(lockstep)
    assert seen[0].address == 0x1_2340_0000
    assert seen[1].reason == Reason.READ_DENIED
    assert seen[2] == PRESETS["default"].cap
    assert seen[3] == PRESETS["default"].cap >> 32


def test_slow_consumers_and_memory_only_delay() -> None:
    options: dict[str, Any] = {
        "timing": MemoryTiming(latency=7, jitter=20, reorder=True, stall_percent=50),
        "hits": ReadyPattern(30, 4), "completions": ReadyPattern(20), "responses": ReadyPattern(40),
    }  # fmt: skip
    lockstep, device = bench(PRESETS["small"], **options)
    source = ListedTraffic(
        iter([Translate(device.sid, 0x40_0000 + (n % 64 << 12)) for n in range(400)]), keep=True
    )
    lockstep.add_source(source)
    run_model_lane(lockstep)
    assert len(source.answers) == 400


def test_mismatch_names_fields_cycle_history_and_replay() -> None:
    lockstep, device = bench()
    lockstep.replay = "twodim something --seed 3"
    lockstep.add_source(ListedTraffic(iter([Translate(device.sid, 0x40_0000)] * 50), start=100))
    model = lockstep.model
    assert model is not None
    for _ in range(150):
        lockstep.cycle(model.observe())
    with pytest.raises(Mismatch) as caught:
        lockstep.cycle(model.observe() ^ 1)
    error = caught.value
    assert error.cycle == 150
    assert [name for name, _, _ in error.fields] == ["requests_ready"]
    assert any(" accept " in line for line in error.history)
    assert "cycle 150: RTL and cycle model differ: requests_ready: expected 0x" in error.explain()
    assert "replay: twodim something --seed 3" in error.explain()


def test_run_without_answers_is_an_error() -> None:
    lockstep, _ = bench()
    with pytest.raises(EmptyRun, match="no request was answered"):
        run_model_lane(lockstep)


def test_agent_that_waits_for_ever_is_a_hang_that_names_it() -> None:
    lockstep, _ = bench(hang_limit=500, limit=300)

    def sleeper() -> BenchAgent[None]:
        yield WaitFor(RAM[0], 1, 1)

    lockstep.scheduler.add("sleeper", sleeper())
    with pytest.raises(Hang, match="sleeper: WaitFor"):
        run_model_lane(lockstep)


def test_limit_stops_sources_and_drains() -> None:
    lockstep, device = bench(limit=1000)

    def ever() -> Iterator[Translate]:
        while True:
            yield Translate(device.sid, 0x40_0000)

    lockstep.add_source(ListedTraffic(ever()))
    summary = run_model_lane(lockstep)
    assert 1000 <= summary["cycles"] < 1100
    assert summary["statistics"]["accepted"] == summary["statistics"]["answers"] > 500


def test_unknown_judge_is_refused() -> None:
    with pytest.raises(HarnessError, match="judges must be among"):
        LockStep(PRESETS["small"], judges={"cycles"})


@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_parameters_survive_json(name: str) -> None:
    import json

    params = PARAMETER_SETS[name]
    assert params_from_json(json.loads(json.dumps(params_to_json(params)))) == params
