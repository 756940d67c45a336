"""Random runs on the RTL with all judges, and the same events in both simulators."""

from pathlib import Path

import pytest

from cocotb_tests.harness.simulators import available
from cocotb_tests.random_run import PARAMETER_SETS, random_run

SIMULATORS = available()
SETS = [name for name in PARAMETER_SETS if name != "large"]  # its build takes too long for every test run


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("name", SETS)
def test_random_run_on_verilator(name: str, seed: int) -> None:
    result = random_run("verilator", seed=seed, params=name, cycles=12_000)
    statistics = result.summary["statistics"]
    assert statistics["cycles_compared"] >= 12_000
    assert statistics["translations"] > 50
    assert statistics["invalidations"] > 10


@pytest.mark.skipif("icarus" not in SIMULATORS, reason="Icarus is not installed")
@pytest.mark.parametrize("name", ["tiny", "small", "legacy", "amd"])
def test_both_simulators_write_the_same_event_log(name: str, tmp_path: Path) -> None:
    texts, digests = [], []
    for simulator in SIMULATORS:
        log = tmp_path / simulator
        result = random_run(simulator, seed=5, params=name, cycles=1500, log=log)
        texts.append(log.read_text())
        digests.append(result.summary["log_sha256"])
        assert result.summary["log_events"] == texts[-1].count("\n") > 300
    assert texts[0] == texts[1]
    assert digests[0] == digests[1]
