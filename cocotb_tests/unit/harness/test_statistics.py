"""Counts and latencies."""

import random

import pytest

from cocotb_tests.harness.statistics import Latencies, Statistics
from pymodel.spec.observation import Lookup


def reference(values: list[int], percent: float) -> int:
    """The smallest value that `percent` of all do not exceed, the slow way."""
    ordered = sorted(values)
    return ordered[max(1, int(-(-len(values) * percent // 100))) - 1]


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 100])
def test_percentiles_are_exact_for_small_latencies(percent: float) -> None:
    rng = random.Random(percent)
    values = [rng.randrange(1000) for _ in range(777)]
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    assert latencies.percentile(percent) == reference(values, percent)


def test_percentiles_of_large_latencies_are_close() -> None:
    rng = random.Random(1)
    values = [int(2 ** rng.uniform(0, 30)) for _ in range(5000)]
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for percent in (50, 90, 99):
        want = reference(values, percent)
        assert abs(latencies.percentile(percent) - want) <= 0.02 * want
    assert latencies.percentile(100) == latencies.maximum == max(values)


def test_empty_histogram_is_zero() -> None:
    assert Latencies().summary() == {"count": 0, "mean": 0.0, "p50": 0, "p90": 0, "p99": 0, "max": 0}


def test_summary_names_hits_walks_and_merges() -> None:
    statistics = Statistics()
    statistics.lookups[Lookup.HIT] = 4
    statistics.lookups[Lookup.WALK] = 2
    statistics.lookups[Lookup.CONTEXT_WALK] = 1
    statistics.lookups[Lookup.CONTEXT_MERGE] = 3
    summary = statistics.summary()
    assert (summary["hits"], summary["walks"], summary["merges"]) == (4, 3, 3)
