"""Random runs on the RTL with all judges, and the same events in every lane."""

from contextlib import closing
from pathlib import Path

import pytest

from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import run_model_lane
from cocotb_tests.harness.simulators import LANES, available
from cocotb_tests.harness.stimulus import PARAMETER_SETS, random_job
from cocotb_tests.random_run import random_run

LANES_HERE = available(LANES)
LARGE = pytest.param("large", marks=pytest.mark.slow)  # Verilator needs minutes to build it, once for each RTL
SETS = [LARGE if name == "large" else name for name in PARAMETER_SETS]
CALM = (3, 4)
"""Seeds without a reset."""
RESETS = (8, 9)
"""Seeds with several."""


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("lane", "seed"), [("verilator", CALM[0]), ("verilator", RESETS[0]), ("lean", CALM[1]), ("lean", RESETS[1])]
)
def test_random_run(name: str, lane: str, seed: int) -> None:
    result = random_run(lane, seed=seed, params=name, cycles=12_000)
    statistics = result.summary["statistics"]
    assert statistics["cycles_compared"] >= 12_000
    assert statistics["translations"] > 50
    assert statistics["invalidations"] > 10
    assert (statistics["resets"] > 2) == (seed in RESETS)


@pytest.mark.skipif(len(LANES_HERE) < 2, reason="one lane alone is installed")
@pytest.mark.parametrize("name", ["tiny", "small", "legacy", "amd", LARGE])
@pytest.mark.parametrize("seed", [5, 8])
def test_all_lanes_write_the_same_event_log(name: str, seed: int, tmp_path: Path) -> None:
    texts, digests = [], []
    for simulator in LANES_HERE:
        log = tmp_path / simulator
        result = random_run(simulator, seed=seed, params=name, cycles=1500, log=log)
        texts.append(log.read_text())
        digests.append(result.summary["log_sha256"])
        assert result.summary["log_events"] == texts[-1].count("\n") > 300
    with closing(EventLog(tmp_path / "model")) as log_of_model:
        context = JobContext(PARAMETER_SETS[name], seed, log=log_of_model)
        digests.append(run_model_lane(random_job(context, params=name, cycles=1500))["log_sha256"])
    texts.append((tmp_path / "model").read_text())
    assert set(texts) == {texts[0]}
    assert set(digests) == {digests[0]}
