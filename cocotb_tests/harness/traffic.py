"""Devices as request sources: patterns with locality for random runs, fixed lists for benches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cocotb_tests.harness.host import Device
from cocotb_tests.harness.scheduler import Translate, Translation
from pymodel.paging.geometry import Range
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST

__all__ = ["Area", "DeviceTraffic", "ListedTraffic"]


@dataclass(frozen=True)
class Area:
    """IOVA range of a domain that devices touch, and the parts of it that software mapped (a live list)."""

    did: int
    start: int
    size: int
    popular: Sequence[Range] = ()


class ListedTraffic:
    """Requests of an iterator, offered from `start` on, at most one in `interval` cycles; keeps the
    answers."""

    def __init__(
        self, requests: Iterator[Translate], *, start: int = 0, interval: int = 1, keep: bool = False
    ) -> None:
        self._requests, self._at, self._interval, self._keep = requests, start, interval, keep
        self.answers: list[Translation] = []
        self.done = False

    def next(self, cycle: int) -> Translate | None:
        """See `offers.Source`."""
        if self.done or cycle < self._at:
            return None
        request = next(self._requests, None)
        if request is None:
            self.done = True
        self._at = cycle + self._interval
        return request

    def answered(self, translation: Translation) -> None:
        """See `offers.Source`."""
        if self._keep:
            self.answers.append(translation)


class DeviceTraffic:
    """A device with a working set: mostly pages near each other, now and then a jump, rarely something
    strange.

    `devices` are the entries that it may speak for, `areas` the ranges that it touches. It is silent
    up to cycle `silent_until` and between bursts. It never ends by itself: the lock-step stops asking.
    """

    def __init__(
        self,
        params: IommuParams,
        rng: random.Random,
        devices: Sequence[Device],
        areas: Sequence[Area],
        rate: float,
        absent: Sequence[int],
        strange: float = 0.04,
        silent_until: int = 0,
    ) -> None:
        self._rng, self._devices, self._areas, self._rate = rng, devices, areas, rate
        self._absent, self._strange = absent, strange
        self._width = params.iova_bits
        self.done = False
        self._silent_until = silent_until
        self._left = 0
        self._pages: list[int] = []
        self._device = devices[0]

    def _jump(self) -> None:
        """Another device entry, another working set."""
        rng = self._rng
        device = self._device = rng.choice(self._devices)
        self._left = rng.choice((4, 16, 64, 256))
        areas: Sequence[Area] = self._areas
        if device.domain is not None and rng.random() < 0.9:
            areas = [
                area for area in areas if device.domain is not None and area.did == device.domain.did
            ] or areas
        area = rng.choice(areas)
        start, size = area.start, area.size
        if area.popular and rng.random() < 0.85:
            chosen = rng.choice(area.popular)
            start, size = chosen.start, chosen.end - chosen.start
        base = rng.randrange(size) & -4096
        stride = rng.choice((4096, 4096, 8 * 4096, 1 << 21, 1 << 30))
        count = rng.choice((1, 2, 4, 12, 40))
        self._pages = [start + (base + stride * step) % size for step in range(count)]

    def next(self, cycle: int) -> Translate | None:
        """See `offers.Source`."""
        if cycle < self._silent_until:
            return None
        rng = self._rng
        if rng.random() >= self._rate:
            return None
        if not self._left:
            self._jump()
            if rng.random() < 0.2:
                self._silent_until = cycle + rng.randrange(1, 400)
                return None
        self._left -= 1
        device = self._device
        sid, pasid = device.sid, device.pasid
        iova = rng.choice(self._pages) + rng.randrange(4096)
        if rng.random() < self._strange:
            kind = rng.randrange(6)
            if kind == 0:
                iova = INTERRUPT_FIRST + rng.randrange(1 << 20)
            elif kind == 1:
                iova = rng.randrange(1 << min(64, self._width + 4))
            elif kind == 2:
                sid = rng.choice(self._absent)
            elif kind == 3:
                pasid = rng.choice((None, 0, 1, 63, 64, (1 << 13) - 1, 1 << 13, (1 << 20) - 1))
            elif kind == 4:
                iova |= 1 << 63 - rng.randrange(8)
            else:
                iova = (INTERRUPT_FIRST & -(1 << 21)) + rng.randrange(1 << 21)
        junk = rng.randrange(1 << 20) if pasid is None and rng.random() < 0.3 else 0
        return Translate(sid, iova, rng.random() < 0.4, pasid, junk)

    def answered(self, translation: Translation) -> None:
        """See `offers.Source`."""
