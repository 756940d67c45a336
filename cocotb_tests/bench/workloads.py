"""Request streams for performance figures, the same on every implementation that draws them the same way.

A request is (write, device, page, offset); its address for pages of `size` bytes is BASE + page * size +
offset, and it translates to that plus DELTA. Everything random comes from `random.Random(seed)` with
`getrandbits` and `random` alone, the same in every Python 3; `digest` proves that two sides ran the same
requests.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

__all__ = ["BASE", "DELTA", "DEVICE", "GAP", "SIZES", "WORKLOADS", "Flush", "Item", "Workload", "digest"]

BASE = 1 << 30
"""First byte of page 0."""
DELTA = 1 << 39
"""Distance from an address to its translation."""
DEVICE = 5
"""The device of all workloads with one device."""
GAP = 20
"""Cycles between an answer and the next request of an isolated workload."""
SIZES = {"4k": 4096, "2m": 1 << 21}


class Item(NamedTuple):
    """One request."""

    write: bool
    device: int
    page: int
    offset: int

    def address(self, size: int) -> int:
        """Input address with pages of `size` bytes."""
        return BASE + self.page * size + self.offset


class Flush(Enum):
    """What is invalidated, and waited for, before each measured request."""

    NOTHING = "nothing"
    EVERYTHING = "device contexts and translations"


@dataclass(frozen=True)
class Workload:
    """A stream and how it is issued."""

    make: Callable[[], list[Item]]
    isolated: bool = False
    """True: each request comes `GAP` cycles after the answer before it; False: the next is always ready."""
    warmup: int = 0
    """Leading requests that are issued one by one and not measured."""
    flush: Flush = Flush.NOTHING
    about: str = ""


def digest(items: Sequence[Item]) -> str:
    """16 hexadecimal digits of a stream."""
    lines = (f"{'RW'[item.write]} {item.device} {item.page} {item.offset}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _stream(pages: Sequence[int], write: bool = False) -> list[Item]:
    """One device, 64 bytes further with each request, inside 4 KiB."""
    return [Item(write, DEVICE, page, number * 64 % 4096) for number, page in enumerate(pages)]


def _different(seed: int, count: int, bits: int) -> list[int]:
    """`count` different numbers below 2**bits in the order in which they are drawn."""
    source, found = random.Random(seed), dict[int, None]()
    while len(found) < count:
        found.setdefault(source.getrandbits(bits))
    return list(found)


def _one_page() -> list[Item]:
    return _stream([7] * 4001)


def _one_page_written() -> list[Item]:
    return _stream([7] * 4001, write=True)


def _eight_pages() -> list[Item]:
    return _stream([number % 8 for number in range(4008)])


def _walks() -> list[Item]:
    return _stream([1 << 16, *_different(11, 64, 16)])


def _random() -> list[Item]:
    return _stream(_different(1, 2000, 16))


def _random_sparse() -> list[Item]:
    return _stream(_different(2, 2000, 19))


def _working_set() -> list[Item]:
    source = random.Random(3)
    return _stream([source.getrandbits(6) for _ in range(5000)])


def _hot() -> list[Item]:
    source = random.Random(4)
    hot: dict[int, None] = {}
    while len(hot) < 8:
        hot.setdefault(source.getrandbits(12))
    favourites = list(hot)

    def draw() -> int:
        if source.random() < 0.9:
            return favourites[source.getrandbits(3)]
        return source.getrandbits(12)

    return _stream([draw() for _ in range(5000)])


def _sequential() -> list[Item]:
    return [Item(False, DEVICE, page, offset) for page in range(512) for offset in range(0, 4096, 256)]


def _many_devices() -> list[Item]:
    source = random.Random(6)
    items = []
    for number in range(5000):
        device = source.getrandbits(4)
        items.append(Item(False, device, 4 * device + source.getrandbits(2), number * 64 % 4096))
    return items


WORKLOADS = {
    "hit1": Workload(_one_page, warmup=1, about="one page"),
    "hit1_write": Workload(_one_page_written, warmup=1, about="one page, writes"),
    "hit8": Workload(_eight_pages, warmup=8, about="8 neighbouring pages in turn"),
    "walk_warm": Workload(_walks, isolated=True, warmup=1, about="64 different pages, context cached"),
    "walk_cold": Workload(
        _walks, isolated=True, warmup=1, flush=Flush.EVERYTHING, about="64 different pages, nothing cached"
    ),
    "rand2000": Workload(_random, about="2000 different pages out of 2**16"),
    "rand2000_sparse": Workload(_random_sparse, about="2000 different pages out of 2**19"),
    "ws64": Workload(_working_set, about="64 neighbouring pages at random"),
    "hot8": Workload(_hot, about="90 % on 8 pages, the rest on 4096"),
    "seq": Workload(_sequential, about="steps of 256 bytes through 512 pages"),
    "multidev": Workload(_many_devices, about="16 devices with 4 pages each"),
}
"""By the name that figures of other implementations carry too."""
