"""What the benches compare with: figures of another implementation, and the ceilings of this design.

The other implementation's figures were measured with the same request streams (`cocotb_tests.bench.workloads`,
equal digests) and an equally ideal memory; they are data here, nothing runs it.
"""

from pymodel.spec.params import IommuParams

__all__ = ["LATENCIES", "OURS", "PEER", "PEER_INVALIDATION", "PEER_SOURCE", "ceiling", "peer", "peer_latency"]

LATENCIES = (1, 20, 100)
"""Read latencies of the memory, cycles."""

PEER_SOURCE = (
    "zero-day-labs/riscv-iommu, commit 18ad30a (2024-06-26): second stage Sv39x4 (3 levels), IOTLB of 16 "
    "entries, device-directory cache of 8, Verilator 5.048, one requester that is always ready"
)
OURS = (
    "VT-d second stage of 4 levels (48 bits, one level more than the peer), legacy contexts (2 reads). An "
    "IOTLB line has 8 sectors, the 8 neighbours of one 64-byte table line: 16 lines match the peer's 16 "
    "entries in number, 2 lines in pages. 16 lines of pointers for each level, context cache of 16 (the "
    "peer's has 8). One requester, always ready, up to 256 requests outstanding by tag; answers taken at once"
)

PEER: dict[str, dict[str, tuple[float, float, float]]] = {
    "hit1": {"4k": (333.3, 333.3, 333.3)},
    "hit1_write": {"4k": (333.3, 333.3, 333.3)},
    "hit8": {"4k": (333.3, 333.3, 333.3)},
    "rand2000": {"4k": (100.0, 14.9, 3.26)},
    "rand2000_sparse": {"4k": (100.0, 14.9, 3.26)},
    "ws64": {"4k": (121.2, 19.6, 4.33), "2m": (148.1, 28.4, 6.44)},
    "hot8": {"4k": (260.8, 94.1, 25.5), "2m": (278.0, 123.1, 36.8)},
    "seq": {"4k": (290.8, 142.8, 45.4), "2m": (301.8, 175.7, 63.7)},
    "multidev": {"4k": (75.2, 15.2, 3.49), "2m": (84.8, 20.0, 4.76)},
}
"""Translations per 1000 cycles at the three latencies, by workload and page size."""

PEER_INVALIDATION = "peer, from doorbell: L+5 to the flush, 2L+11 to the fence write, which waits for no walk"

_PEER_LATENCY = {
    "hit": (0, 2), "walk_warm 4K": (3, 6), "walk_warm 2M": (2, 5), "walk_cold 4K": (4, 15),
}  # fmt: skip


def peer(workload: str, pages: str, latency: int) -> float:
    """The other implementation's translations per 1000 cycles."""
    return PEER[workload][pages][LATENCIES.index(latency)]


def peer_latency(what: str) -> str:
    """The other implementation's latency for a request alone, as a formula in L; empty where unknown."""
    if what not in _PEER_LATENCY:
        return ""
    factor, constant = _PEER_LATENCY[what]
    return f"{factor}L+{constant}" if factor else str(constant)


def ceiling(reads: float, params: IommuParams, latency: int) -> float:
    """Translations per 1000 cycles that a design with these walk slots cannot exceed by much.

    `reads` line reads per translation (measured) share one read port and the slots, each of which is taken
    for the latency of its read and two cycles; and there is at most one answer in a cycle.
    """
    if not reads:
        return 1000.0
    return 1000 * min(1.0, 1 / reads, params.walk_slots / (reads * (latency + 2)))
