"""Jobs that measure: request streams, single walks, invalidations. Cycles are exact; the judges run along.

Memory is ideal: a read is accepted in every cycle, its line comes L cycles later, any number is outstanding.
"""

from collections.abc import Generator, Iterator
from typing import Any, TypeAlias, TypeVar

from cocotb_tests.bench.workloads import DELTA, DEVICE, GAP, SIZES, WORKLOADS, Flush, Item
from cocotb_tests.harness.host import RAM, Device, Domain, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming, Sample
from cocotb_tests.harness.scheduler import Answer, Drain, Now, Translate, Translation
from pymodel.effects import Delay, WaitFor
from pymodel.memory import PhysMem
from pymodel.paging.update import map_range
from pymodel.spec.descriptors import CONTEXT_INV, INTERRUPT_INV, DescriptorType, Granularity
from pymodel.spec.observation import Lookup, WriteId, fetch_id
from pymodel.spec.second_stage import INTERRUPT_FIRST, INTERRUPT_LAST

__all__ = ["depths", "hits_under_misses", "invalidations", "isolated", "throughput"]

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]
"""An agent that also uses the effects of the scheduler."""

_INVALIDATE_CONTEXTS = CONTEXT_INV.pack(type=DescriptorType.CONTEXT, g=Granularity.GLOBAL)
_LEVELS = 4
_INTERRUPTS = range(INTERRUPT_FIRST, INTERRUPT_LAST + 1)


class Measurement(LockStep):
    """A lock-step whose summary carries `figures`."""

    figures: dict[str, Any]

    def finish(self) -> dict[str, Any]:
        """The summary of the run, with `figures`."""
        return {**super().finish(), "figures": self.figures}


def _bench(context: JobContext, latency: int) -> Measurement:
    bench = Measurement(
        context.params, seed=context.seed, judges=context.judges, log=context.log, replay=context.replay,
        memory=PhysMem([RAM]), timing=MemoryTiming(latency=latency, sample=Sample.AT_ACCEPT),
    )  # fmt: skip
    bench.figures = {}
    return bench


def _host(bench: Measurement, items: list[Item], size: int) -> Host:
    """One table for all devices of `items`, each with a domain id of its own; one leaf for every page."""
    host = Host(bench.params, bench.memory)
    table = host.domain(0, _LEVELS).table
    level = (size.bit_length() - 13) // 9
    for page in sorted({item.page for item in items}):
        iova = Item(False, 0, page, 0).address(size)
        host.build(map_range(table, iova, iova + DELTA, size, max_level=level))
    for device in sorted({item.device for item in items}):
        host.build(host.attach(Device(sid=device, domain=Domain(device + 1, table))))
    return host


def _check(translation: Translation) -> None:
    """The answer is the address plus DELTA, or the fault of the interrupt range."""
    iova = translation.iova
    right = bool(translation.reason) if iova in _INTERRUPTS else translation.address == iova + DELTA
    if not right:
        raise AssertionError(f"wrong answer: {translation!r}")


class _Stream:
    """The measured requests: the next one is offered in the cycle after the one before was accepted."""

    def __init__(self, items: Iterator[Item], size: int) -> None:
        self._items, self._size = items, size
        self.open = self.done = False
        self.first: int | None = None
        self.last = self.answers = self.faults = 0
        self.hit_latency: dict[int, int] = {}

    def next(self, cycle: int) -> Translate | None:
        """See `offers.Source`."""
        if not self.open or self.done:
            return None
        item = next(self._items, None)
        if item is None:
            self.done = True
            return None
        if self.first is None:
            self.first = cycle
        return Translate(item.device, item.address(self._size), item.write)

    def answered(self, translation: Translation) -> None:
        """See `offers.Source`."""
        _check(translation)
        assert translation.answered_at is not None
        self.last = translation.answered_at
        self.answers += 1
        self.faults += translation.reason != 0
        if translation.port == "hits":
            latency = translation.answered_at - translation.accepted_at
            self.hit_latency[latency] = self.hit_latency.get(latency, 0) + 1


def throughput(context: JobContext, workload: str, latency: int, pages: str = "4k") -> LockStep:
    """A back-to-back workload: translations, cycles from the first offer to the last answer, reads, walks."""
    chosen = WORKLOADS[workload]
    return _measure(context, chosen.make(), chosen.warmup, latency, SIZES[pages])


def hits_under_misses(context: JobContext, latency: int, distance: int, count: int = 4000) -> LockStep:
    """One page over and over, and a page of a line that is not cached in each `distance`-th request."""
    chosen = WORKLOADS["hit1"].make()[0]
    items = [chosen._replace(offset=64 * number % 4096) for number in range(count)]
    for number in range(distance, count, distance):
        items[number] = chosen._replace(page=chosen.page + 8 * number)
    return _measure(context, items, 1, latency, SIZES["4k"])


def _measure(context: JobContext, items: list[Item], warmup: int, latency: int, size: int) -> LockStep:
    bench = _bench(context, latency)
    host = _host(bench, items, size)
    stream = _Stream(iter(items[warmup:]), size)
    bench.add_source(stream)
    statistics = bench.statistics

    def software() -> Steps[None]:
        yield from host.start()
        for item in items[:warmup]:
            yield from _ask(item, size)
        reads, before = bench.port.line_reads, list(statistics.lookups)
        stream.open = True
        while not stream.done or stream.answers < len(items) - warmup:
            yield Delay(4)
        yield Drain()
        yield Delay(4)
        assert stream.first is not None
        looked = {kind.name.lower(): statistics.lookups[kind] - before[kind] for kind in Lookup}
        bench.figures.update(
            translations=stream.answers, cycles=stream.last - stream.first + 1, faults=stream.faults,
            reads=bench.port.line_reads - reads, lookups=looked, hit_latency=stream.hit_latency,
            walks=looked["walk"] + looked["context_walk"],
        )  # fmt: skip

    bench.scheduler.add("software", software())
    return bench


def _ask(item: Item, size: int) -> Steps[tuple[int, Translation]]:
    """One request on its own: the cycle in which it was offered, and its answer; then `GAP` silent cycles."""
    offered: int = yield Now()
    translation: Translation = yield Translate(item.device, item.address(size), item.write)
    yield Answer(translation)
    _check(translation)
    yield Delay(GAP - 1)
    return offered, translation


def isolated(context: JobContext, workload: str, latency: int, pages: str = "4k") -> LockStep:
    """An isolated workload: (reads, latency from offer to answer) of each measured request."""
    bench, chosen = _bench(context, latency), WORKLOADS[workload]
    items, size = chosen.make(), SIZES[pages]
    host = _host(bench, items, size)
    walks: list[tuple[int, int]] = []

    def software() -> Steps[None]:
        yield from host.start()
        for number, item in enumerate(items):
            if number >= chosen.warmup and chosen.flush is Flush.EVERYTHING:
                yield from host.sync(_INVALIDATE_CONTEXTS, host.global_descriptor())
                yield Delay(GAP)
            reads = bench.port.line_reads
            offered, answer = yield from _ask(item, size)
            assert answer.answered_at is not None
            if number >= chosen.warmup:
                walks.append((bench.port.line_reads - reads, answer.answered_at - offered))
        bench.figures["walks"] = walks

    bench.scheduler.add("software", software())
    return bench


def depths(context: JobContext, latency: int) -> LockStep:
    """Walks of every length in a 5-level table as (page level, reads, latency); `cold`: without the context.

    After a walk of `base`, an address that differs at table level k only, by a line or more, needs the reads
    below the cached pointer to their common table: k - (level of the page) + 1 of them.
    """
    bench = _bench(context, latency)
    host = Host(bench.params, bench.memory)
    domain = host.domain(did=9, levels=5)
    device = Device(sid=DEVICE, domain=domain)
    host.build(host.attach(device))
    asked: list[list[int]] = []
    for level in range(bench.params.large_pages + 1):
        base = (3 << 48) + (5 + level << 39) + (5 + level << 30)
        others = [base + (8 << 12 + 9 * k) for k in range(level, 5)]
        asked.append([base, *others])
        for iova in asked[-1]:
            iova_page = 4096 << 9 * level
            host.build(map_range(domain.table, iova, _short(iova), iova_page, max_level=level))
    walks: list[tuple[int, int, int]] = []
    cold: list[tuple[int, int, int]] = []
    hits: list[int] = []

    def ask(iova: int, level: int, found: list[tuple[int, int, int]]) -> Steps[None]:
        offered: int = yield Now()
        reads = bench.port.line_reads
        answer: Translation = yield Translate(device.sid, iova + 0x40)
        yield Answer(answer)
        if (answer.address, answer.level) != (_short(iova) + 0x40, level):
            raise AssertionError(f"wrong answer: {answer!r}")
        assert answer.answered_at is not None
        found.append((level, bench.port.line_reads - reads, answer.answered_at - offered))
        yield Delay(GAP)

    def software() -> Steps[None]:
        yield from host.start()
        scratch: list[tuple[int, int, int]] = []
        for level, (base, *others) in enumerate(asked):
            for other in others:
                yield from ask(base, level, scratch)  # the context is cached from here on
                yield from host.sync(host.global_descriptor())
                yield from ask(base, level, walks)
                yield from ask(other, level, walks)
                yield from ask(other, level, scratch)
                hits.append(scratch[-1][2])
            yield from host.sync(_INVALIDATE_CONTEXTS, host.global_descriptor())
            yield from ask(base, level, cold)
        bench.figures.update(walks=walks, cold=cold, hits=hits)

    bench.scheduler.add("software", software())
    return bench


def _short(iova: int) -> int:
    """Where `depths` maps an address: the same bits, folded into 48."""
    return (iova ^ iova >> 12 & ~0x3FFF_FFFF) & (1 << 47) - 1


def invalidations(context: JobContext, latency: int, walks: bool, rounds: int = 12) -> LockStep:
    """Global invalidations while every request misses, or in silence; k = 1, 2, 3 before each wait in turn.

    For each: k, cycles from the arrival of the descriptors to the status write on the port, from the doorbell
    to it, and how many walks were in flight when the first invalidation was applied.
    """
    bench, size = _bench(context, latency), SIZES["4k"]
    stream = WORKLOADS["rand2000_sparse"]
    items = stream.make() * (6 if walks else 1)
    host = _host(bench, items, size)
    source = _Stream(iter(items), size)
    no_operation = INTERRUPT_INV.pack(type=DescriptorType.INTERRUPT)  # fills the line of four descriptors
    queue, results = fetch_id(bench.params), []
    state = {"arrival": 0, "doorbell": 0, "in_flight": -1}
    plain = bench.emit

    def watch(event: tuple[Any, ...]) -> None:
        plain(event)
        at, what = event[0], event[1]
        if what == "data" and event[2] == queue:
            state["arrival"], state["in_flight"] = at, -1
        elif what == "register_write" and event[2] == 0x88:
            state["doorbell"] = at
        elif what == "kill" and state["in_flight"] < 0:
            state["in_flight"] = bin(event[2]).count("1")
        elif what == "write" and event[2] == WriteId.STATUS:
            found = at - state["arrival"], at - state["doorbell"], max(0, state["in_flight"])
            results.append((state["k"], *found))

    bench.emit = watch
    if walks:
        bench.add_source(source)

    def software() -> Steps[None]:
        yield from host.start()
        yield from _ask(items[0], size)
        for number in range(rounds):
            source.open = True
            yield Delay(4 * latency + 30 + 7 * number)
            state["k"] = 1 + number % 3
            wait, address, data = host.wait_descriptor()
            rest = [no_operation] * (3 - state["k"])
            yield from host.put(*[host.global_descriptor()] * state["k"], wait, *rest)
            yield WaitFor(address, 0xFFFF_FFFF, data)
        source.done = True
        bench.figures["invalidations"] = results

    bench.scheduler.add("software", software())
    return bench
