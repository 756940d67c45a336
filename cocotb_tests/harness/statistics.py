"""Counts of a run and a latency histogram with bounded memory."""

from pymodel.spec.observation import Lookup

__all__ = ["Latencies", "Statistics"]


class Latencies:
    """Histogram of latencies in cycles: exact below 1024, then 64 steps for each doubling (error below 2
    %)."""

    _EXACT = 1024
    _STEPS = 64

    def __init__(self) -> None:
        self._exact = [0] * self._EXACT
        self._coarse: dict[tuple[int, int], int] = {}
        self.total = 0
        self.maximum = 0

    def add(self, cycles: int) -> None:
        """Count one latency."""
        self.total += cycles
        if cycles > self.maximum:
            self.maximum = cycles
        if cycles < self._EXACT:
            self._exact[cycles] += 1
        else:
            power = cycles.bit_length()
            key = (power, (cycles - (1 << power - 1)) * self._STEPS >> power - 1)
            self._coarse[key] = self._coarse.get(key, 0) + 1

    @property
    def count(self) -> int:
        """Latencies that were added."""
        return sum(self._exact) + sum(self._coarse.values())

    def percentile(self, percent: float) -> int:
        """The smallest latency that at least `percent` of all do not exceed; 0 without any."""
        count = self.count
        if not count:
            return 0
        left = max(1, -(-count * percent // 100))
        for cycles, count in enumerate(self._exact):
            left -= count
            if left <= 0:
                return cycles
        for (power, step), count in sorted(self._coarse.items()):
            left -= count
            if left <= 0:
                base = 1 << power - 1
                return min(self.maximum, base + (step + 1) * base // self._STEPS)
        return self.maximum

    def summary(self) -> dict[str, float]:
        """Count, mean, p50, p90, p99, max."""
        count = self.count
        mean = self.total / count if count else 0.0
        return {
            "count": count,
            "mean": round(mean, 3),
            "p50": self.percentile(50),
            "p90": self.percentile(90),
            "p99": self.percentile(99),
            "max": self.maximum,
        }


class Statistics:
    """What a run did. `lookups` counts by `Lookup`; the others are plain counters."""

    accepted: int = 0
    answers: int = 0
    applies: int = 0
    arrivals: int = 0
    completions: int = 0
    cycles: int = 0
    cycles_compared: int = 0
    dropped: int = 0
    evictions: int = 0
    faults_answered: int = 0
    faults_recorded: int = 0
    fills: int = 0
    killed: int = 0
    line_reads: int = 0
    lost: int = 0
    """Requests that a reset took."""
    register_accesses: int = 0
    replays: int = 0
    resets: int = 0
    status_writes: int = 0
    writes: int = 0

    def __init__(self) -> None:
        self.lookups = [0] * 16
        self.latencies = Latencies()

    def summary(self) -> dict[str, object]:
        """All counts by name, for JSON."""
        lookups = self.lookups
        names = {kind.name.lower(): lookups[kind] for kind in Lookup if kind is not Lookup.NONE}
        plain = {name: getattr(self, name) for name in _COUNTS}
        return {
            "translations": plain["answers"],
            "hits": lookups[Lookup.HIT],
            "walks": lookups[Lookup.WALK] + lookups[Lookup.CONTEXT_WALK],
            "merges": lookups[Lookup.MERGE] + lookups[Lookup.CONTEXT_MERGE],
            "invalidations": plain["applies"],
            **plain,
            "lookups": names,
            "latency": self.latencies.summary(),
        }


_COUNTS = tuple(sorted(name for name, kind in Statistics.__annotations__.items() if kind is int))
