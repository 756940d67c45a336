"""Jobs that must fail, and one pair that shows what a missing walk restart does; `test_harness_red` runs
them."""

import random
from collections.abc import Callable
from typing import Any

from cocotb_tests.harness.decode import field_places
from cocotb_tests.harness.errors import HarnessError
from cocotb_tests.harness.host import RAM, Device, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming, Sample
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Translate
from cocotb_tests.harness.smoke import job as smoke
from pymodel.cycle.inputs import Inputs
from pymodel.effects import Delay, Store, WaitFor
from pymodel.memory import PhysMem
from pymodel.paging.geometry import Range
from pymodel.paging.update import Found, lookup, map_range

__all__ = ["broken", "late_walk"]


def _spoil(bench: LockStep, change: Callable[[int, int], int]) -> None:
    """Let `change(cycle, obs)` stand between the RTL and the judges."""
    judge = bench.cycle
    bench.cycle = lambda obs: judge(change(bench.now, obs))  # type: ignore[method-assign]


def _forget_request(bench: LockStep, number: int) -> None:
    """A broken model: it loses one request."""
    assert bench.model is not None
    model = bench.model

    class Forgetful:
        """The model, with one hole."""

        seen = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def step(self, inputs: Inputs) -> None:
            request = inputs.request
            if request is not None and model.requests_ready:
                self.seen += 1
                if self.seen == number:
                    inputs.request = None
            model.step(inputs)
            inputs.request = request

    bench.model = Forgetful()  # type: ignore[assignment]


def broken(context: JobContext, what: str) -> LockStep:
    """The smoke job with one thing broken: `what` names it."""
    if what == "empty":
        return context.lockstep()
    if what == "no answers":
        bench = context.lockstep(memory=PhysMem([RAM]))
        bench.scheduler.add("start", Host(context.params, bench.memory).start())
        return bench
    if what == "factory":
        raise ValueError("the factory of this job fails on purpose")
    bench = smoke(context)
    places = field_places(context.params)
    rng = random.Random(context.seed)
    if what == "bit":
        low, width = 0, sum(mask.bit_length() for _, mask in places.values())
        at, bit = rng.randrange(1, 250), rng.randrange(low, width)
        _spoil(bench, lambda cycle, obs: obs ^ (cycle == at) << bit)
    elif what == "model":
        _forget_request(bench, 9)
    elif what == "tag":  # an answer with a tag that nobody sent
        valid, tag = places["hits_valid"][0], places["hits_tag"][0]
        _spoil(bench, lambda _, obs: obs ^ (obs >> valid & 1) << tag + 7)
    elif what == "address":  # a hit of another page
        valid, address = places["hits_valid"][0], places["hits_address"][0]
        _spoil(bench, lambda _, obs: obs ^ (obs >> valid & 1) << address + 20)
    elif what == "lost":  # an answer that never leaves
        valid = places["hits_valid"][0]
        _spoil(bench, lambda _, obs: obs & ~(1 << valid))
        bench._hang_limit = 2000
    elif what == "status":  # a status write with other data
        valid, data = places["writes_valid"][0], places["writes_data"][0]
        _spoil(bench, lambda _, obs: obs ^ (obs >> valid & 1) << data)
    elif what == "read":  # a read that is offered one cycle late
        valid, seen = places["reads_valid"][0], set[int]()

        def late(cycle: int, obs: int) -> int:
            if obs >> valid & 1:
                seen.add(cycle)
            return obs & ~(1 << valid) if seen == {cycle} else obs

        _spoil(bench, late)
    elif what == "record":  # a fault record that is not reported as written
        low, mask = places["faults_recorded"]
        _spoil(bench, lambda _, obs: obs & ~(mask << low))
    elif what == "overflow":  # PFO from some cycle on
        low, _ = places["fault_overflow"]
        at = rng.randrange(1, 250)
        _spoil(bench, lambda cycle, obs: obs | (cycle >= at) << low)
    elif what == "agent":

        def fails() -> BenchAgent[None]:
            yield Delay(50)
            raise ValueError("this agent fails on purpose")

        bench.scheduler.add("fails", fails())
    elif what == "hang":

        def waits() -> BenchAgent[None]:
            yield WaitFor(RAM[0], 1, 1)

        bench.scheduler.add("waits", waits())
        bench._hang_limit = 2000
    else:
        raise HarnessError(f"nothing is called {what!r} here")
    return bench


def late_walk(context: JobContext) -> LockStep:
    """Software takes a table away while a walk that has read the pointer to it waits for memory.

    With K9 (`walk_drain`) the walk is restarted. Without it the device gets a page of the old table after the
    invalidation completed: RTL and cycle model agree on that, only the architectural judge objects.
    """
    latency, depth = 100, context.params.max_levels
    memory = PhysMem([RAM])
    bench = context.lockstep(memory=memory, timing=MemoryTiming(latency=latency, sample=Sample.AT_ACCEPT))
    host = Host(context.params, memory)
    domain = host.domain(5, depth)
    host.build(map_range(domain.table, 0x40_0000, 0x1_2340_0000, 16 << 12, max_level=0))
    pointer: Found = host.build(lookup(domain.table, 0x40_0000, 1))
    device = Device(0x0300, domain=domain)
    host.build(host.attach(device))

    def software() -> BenchAgent[None]:
        yield from host.start()
        warm = yield Translate(device.sid, 0x40_F000)
        yield Answer(warm)
        yield from host.sync(host.global_descriptor())
        old = yield Translate(device.sid, 0x40_0000)  # the context is cached, no table is
        yield Delay((depth - 2) * (latency + 1) + latency // 5)  # the pointer was read, its table not yet
        yield Store(pointer.address, 0)
        yield from host.sync(*host.page_descriptors(domain.did, Range(0x40_0000, 0x60_0000), ih=0))
        yield Answer(old)

    bench.scheduler.add("software", software())
    return bench
