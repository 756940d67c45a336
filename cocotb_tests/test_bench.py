"""What the design promises in exact cycles, measured on the RTL in lock-step with the golden model, in lane lean.

Sweeps over the number of walk slots run on the golden model alone; the lock-step holds it equal to the RTL.
"""

from typing import Any

import pytest

from cocotb_tests.bench.figures import LATENCIES, PEER, ceiling, peer
from cocotb_tests.bench.run import tasks
from cocotb_tests.bench.task import bench_params
from cocotb_tests.harness.cosim import cosimulate
from cocotb_tests.harness.job import run_job_on_model

JOBS = "cocotb_tests.bench.jobs"
SIMULATOR = "lean"

each_latency = pytest.mark.parametrize("latency", LATENCIES)


def on_rtl(job: str, slots: int = 8, **parameters: Any) -> dict[str, Any]:
    """Figures of a job on the RTL, all judges on."""
    result = cosimulate(SIMULATOR, bench_params(slots), f"{JOBS}:{job}", seed=1, job_parameters=parameters)
    assert result.summary["statistics"]["cycles_compared"] == result.summary["cycles"]
    figures: dict[str, Any] = result.summary["figures"]
    return figures


def on_model(job: str, slots: int, **parameters: Any) -> dict[str, Any]:
    """The same figures from the golden model alone."""
    result: dict[str, Any] = run_job_on_model(f"{JOBS}:{job}", bench_params(slots), 1, **parameters)
    return dict(result["figures"])


def rate(figures: dict[str, Any]) -> float:
    """Translations per 1000 cycles."""
    return 1000 * float(figures["translations"]) / float(figures["cycles"])


@pytest.mark.parametrize("workload", ["hit1", "hit1_write", "hit8"])
def test_hits_one_per_cycle_two_cycles_after_acceptance(workload: str) -> None:
    """L7: 4000 hits take 4002 cycles; at least 2.9 times the other implementation at every memory latency."""
    figures = on_rtl("throughput", workload=workload, latency=100)
    assert (figures["translations"], figures["cycles"], figures["reads"]) == (4000, 4002, 0)
    assert figures["hit_latency"] == {"2": 4000}
    for latency in LATENCIES:
        assert rate(figures) >= 2.9 * peer(workload, "4k", latency)


@each_latency
def test_hits_stay_hits_under_misses(latency: int) -> None:
    """Misses in flight, fewer than slots: every hit is answered after two cycles, one in each cycle."""
    figures = on_rtl("hits_under_misses", latency=latency, distance=60)
    assert figures["hit_latency"] == {"2": figures["lookups"]["hit"]}
    assert figures["lookups"]["hit"] > 3900
    assert figures["walks"] > 60
    assert figures["lookups"]["stall"] == 0
    assert figures["lookups"]["none"] <= 4 * (latency + 1) + 4, "the last walk ends after the last request"


@each_latency
def test_walk_of_n_reads_keeps_its_bound(latency: int) -> None:
    """W4: n(L+1)+2 for every depth and page size; one more cycle with the context; hits in two."""
    figures = on_rtl("depths", latency=latency)
    seen = {(level, reads) for level, reads, _ in figures["walks"]}
    deepest = ((0, 5), (1, 4), (2, 3))
    assert seen == {(level, reads) for level, most in deepest for reads in range(1, most + 1)}
    for level, reads, cycles in figures["walks"]:
        assert cycles == reads * (latency + 1) + 2, f"level {level}, {reads} reads"
        assert cycles <= reads * (latency + 1) + 3
    assert {(level, reads) for level, reads, _ in figures["cold"]} == {(0, 7), (1, 6), (2, 5)}
    for _, reads, cycles in figures["cold"]:
        assert cycles == reads * (latency + 1) + 3
    assert set(figures["hits"]) == {2}


def test_isolated_walks_of_the_published_stream() -> None:
    """64 pages alone: one or two reads with pointers cached, six with nothing cached (2 context, 4 table)."""
    for workload, allowed in (("walk_warm", {1, 2}), ("walk_cold", {6})):
        walks = on_rtl("isolated", workload=workload, latency=20)["walks"]
        assert len(walks) == 64
        assert {reads for reads, _ in walks} == allowed
        assert all(cycles == 21 * reads + 2 + (reads == 6) for reads, cycles in walks)


@pytest.mark.parametrize("workload", ["rand2000", "rand2000_sparse"])
@pytest.mark.parametrize("slots", [1, 2, 8, 16, 32])
@each_latency
def test_misses_reach_the_bound(slots: int, latency: int, workload: str) -> None:
    """At least 90 % of min(1/reads, W/(reads(L+2))) with the reads that the walks made."""
    figures = on_model("throughput", slots, workload=workload, latency=latency)
    reads = figures["reads"] / figures["walks"]
    assert rate(figures) >= 0.9 * ceiling(reads, bench_params(slots), latency)


def test_misses_on_the_rtl_are_those_of_the_model() -> None:
    """One of the sweep's points in lock-step; its figures are the same."""
    parameters: dict[str, Any] = {"workload": "rand2000", "latency": 100}
    figures = on_rtl("throughput", **parameters)
    expected = on_model("throughput", 8, **parameters)
    assert {name: figures[name] for name in ("cycles", "reads", "walks")} == {
        name: expected[name] for name in ("cycles", "reads", "walks")
    }


@pytest.mark.parametrize(("slots", "factor"), [(8, 20), (32, 60)])
def test_random_pages_against_the_peer(slots: int, factor: int) -> None:
    """2000 different pages at a latency of 100 cycles."""
    figures = on_model("throughput", slots, workload="rand2000", latency=100)
    assert rate(figures) >= factor * peer("rand2000", "4k", 100)


@pytest.mark.parametrize("pages", ["4k", "2m"])
@each_latency
def test_every_workload_is_faster_than_the_peer(latency: int, pages: str) -> None:
    """Also with two IOTLB lines, which hold as many pages as the peer's sixteen entries."""
    for workload, sizes in PEER.items():
        if pages in sizes:
            for lines in (16, 2):
                params = bench_params(8, lines)
                figures = run_job_on_model(
                    f"{JOBS}:throughput", params, 1, workload=workload, latency=latency, pages=pages
                )["figures"]
                assert rate(figures) > 1.5 * peer(workload, pages, latency), f"{workload}, {lines} lines"


@pytest.mark.parametrize("walks", [False, True])
def test_invalidation_latency_depends_on_nothing(walks: bool) -> None:
    """I10: status write 2k+4 cycles after the descriptors, at every latency, with 0 or W walks in flight."""
    for slots in (1, 8, 16):
        for latency in LATENCIES:
            found = on_model("invalidations", slots, latency=latency, walks=walks)["invalidations"]
            assert len(found) == 12
            for count, from_arrival, from_doorbell, in_flight in found:
                assert from_arrival == 2 * count + 4
                assert from_doorbell == from_arrival + latency + 2
                assert in_flight == slots * walks


@each_latency
def test_invalidation_latency_on_the_rtl(latency: int) -> None:
    """The same with eight walks in flight, in lock-step."""
    found = on_rtl("invalidations", latency=latency, walks=True)["invalidations"]
    assert [entry[1] for entry in found] == [6, 8, 10] * 4
    assert {entry[3] for entry in found} == {8}


def test_tasks_cover_every_published_figure() -> None:
    """The command measures each workload, page size and latency that the peer has a figure for."""
    measured = {
        (task.parameters["workload"], task.parameters["pages"], task.latency)
        for task in tasks() if task.job == "throughput"
    }  # fmt: skip
    names = {(name, pages) for name, sizes in PEER.items() for pages in sizes}
    assert measured == {(*name, latency) for name in names for latency in LATENCIES}
    assert len(tasks(quick=True)) < len(tasks()) / 2
