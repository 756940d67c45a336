"""When consumers are ready: patterns for `hits`, `completions` and `register_responses`."""

import random
from dataclasses import dataclass

__all__ = ["ALWAYS", "Consumers", "ReadyPattern"]


@dataclass(frozen=True)
class ReadyPattern:
    """A consumer that is ready in `percent` of all cycles, in runs of at most `burst` equal cycles."""

    percent: int = 100
    burst: int = 1

    def __post_init__(self) -> None:
        if not 5 <= self.percent <= 100:
            raise ValueError(f"percent must be in 5..100, not {self.percent}")
        if self.burst < 1:
            raise ValueError(f"burst must be at least 1, not {self.burst}")


ALWAYS = ReadyPattern()


class Consumers:
    """The three consumers, stepped once in each cycle; `always` is True where nothing has to be drawn."""

    __slots__ = ("_left", "_patterns", "_ready", "_rng", "always")

    def __init__(
        self, hits: ReadyPattern, completions: ReadyPattern, responses: ReadyPattern, seed: int
    ) -> None:
        self._patterns = (hits, completions, responses)
        self._rng = random.Random(f"consumers {seed}")
        self._ready = [True, True, True]
        self._left = [0, 0, 0]
        self.always = all(pattern.percent == 100 for pattern in self._patterns)

    def step(self) -> list[bool]:
        """Whether hits, completions and register responses are taken in this cycle."""
        rng, left, ready = self._rng, self._left, self._ready
        for index, pattern in enumerate(self._patterns):
            if left[index]:
                left[index] -= 1
            elif pattern.percent < 100:
                ready[index] = rng.random() * 100 < pattern.percent
                if pattern.burst > 1:
                    left[index] = rng.randrange(pattern.burst)
        return ready
