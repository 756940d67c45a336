"""Random small programs for comparisons of the explorer with itself."""

import random
from collections.abc import Callable, Generator
from typing import Any

from pymodel.effects import CompareExchange, Event, FetchAnd, FetchOr, Load, Store, WaitFor
from pymodel.explore import Attachment, Choose, Dma, IommuAgent, Prefetch
from pymodel.memory import SparseMem
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.spec.params import Architecture, IommuParams

Program = Callable[[], Generator[Any, Any, Any]]
WORDS = (0x100, 0x108, 0x110)
LATE = 0x118
"""Word that programs turn to only after they saw a certain value."""


def program(rng: random.Random, words: list[int], length: int) -> Program:
    """Loads, stores, atomics, waits, choices; addresses and values depend on what was loaded."""
    steps = [
        (rng.choice("LLLSSSCCOAEXW"), rng.choice(words), rng.randrange(3), rng.randrange(3))
        for _ in range(rng.randrange(1, length + 1))
    ]

    def run() -> Generator[Any, Any, int]:
        last = 0
        for kind, address, x, y in steps:
            if kind == "L":
                last = yield Load(LATE if last == 2 else address)
            elif kind == "S":
                yield Store(address, (x + last) % 4)
            elif kind == "C":
                last = yield CompareExchange(address, x, y)
            elif kind == "O":
                yield FetchOr(LATE if last == 1 and x else address, y)
            elif kind == "A":
                yield FetchAnd(address, x)
            elif kind == "E":
                yield Event("seen", (("value", last),))
            elif kind == "X":
                last = yield Choose((0, y + 1))
            elif x == 0:
                yield WaitFor(address, 1, y & 1)
        return last

    return run


def programs(seed: int) -> dict[str, Program]:
    """Two to four programs over one to three shared words and private ones."""
    rng = random.Random(seed)
    count = rng.choice((2, 3, 3, 4))
    shared = list(WORDS[: rng.randrange(1, 4)])
    length = {2: 6, 3: 5, 4: 3}[count]
    return {
        f"p{number}": program(rng, shared + [0x200 + 8 * number] * rng.randrange(4), length) for number in range(count)
    }


SID, DID, ROOT, PD, PTS = 0x10, 7, 0x1000, 0x2000, (0x3000, 0x4000)
QUEUE, STATUS, G = 0x10_0000, 0x11_0000, 0
PAGES = tuple(0x4000_0000 + number * span(1) for number in range(3))
FORMAT = SecondStage.of(IommuParams())


def random_machine(seed: int, make: type[IommuAgent] = IommuAgent) -> tuple[dict[str, Program], SparseMem, IommuAgent]:
    """Software that edits entries and invalidates, one or two devices, an IOMMU with random knobs."""
    from pymodel.litmus.machine import page_selective, wait

    rng = random.Random(seed)
    scope = rng.choice((Architecture.VTD, Architecture.VTD, Architecture.AMD))
    params = IommuParams(
        inval_scope=scope,
        psc_scope=scope,
        np_cache=rng.random() < 0.3,
        rewalk_on_perm=rng.random() < 0.3,
        walk_drain=rng.random() < 0.8,
        inv_reorder=rng.random() < 0.3,
        drain_always=rng.random() < 0.8,
    )

    def leaf(level: int) -> int:
        return FORMAT.make_leaf(rng.choice(PAGES), level, True, rng.random() < 0.7)

    def pde() -> int:
        return rng.choice((0, leaf(1), FORMAT.make_table(rng.choice(PTS), 1), FORMAT.make_table(PTS[0], 1)))

    words = {ROOT: FORMAT.make_table(PD, 2), PD: pde()}
    words |= {table + 8 * number: rng.choice((0, leaf(0))) for table in PTS for number in range(2)}
    words |= {page + number * PAGE: page + number for page in PAGES for number in range(2)}
    steps: list[tuple[Any, ...]] = []
    for number in range(rng.randrange(1, 4)):
        steps.append(rng.choice((("S", PD, pde()), ("S", rng.choice(PTS) + 8 * rng.randrange(2), leaf(0)))))
        if rng.random() < 0.6:
            target = rng.choice((Range(G, G + PAGE), Range(G, G + span(1))))
            steps.append(("I", number, page_selective(target, ih=rng.random() < 0.5)))
        if rng.random() < 0.4:
            steps.append(("S", rng.choice(PAGES), 0xBEEF + number))

    def software() -> Generator[Any, Any, None]:
        from pymodel.effects import WriteRegister

        tail = 0
        for kind, where, value in steps:
            if kind == "S":
                yield Store(where, value)
                continue
            for descriptor in (value, wait(STATUS + 8 * where)):
                yield Store(QUEUE + tail, descriptor & (1 << 64) - 1)
                yield Store(QUEUE + tail + 8, descriptor >> 64)
                tail += 16
            yield WriteRegister(0x88, tail, 8)
            yield WaitFor(STATUS + 8 * where, 1, 1)

    def device(plan: list[tuple[str, int]]) -> Program:
        def run() -> Generator[Any, Any, tuple[Any, ...]]:
            answers = []
            for kind, iova in plan:
                if kind == "P":
                    yield Prefetch(SID, iova)
                else:
                    answers.append((yield Dma(SID, iova, kind == "W", 0x77)))
            return tuple(answers)

        return run

    agents: dict[str, Program] = {"software": software}
    for number in range(rng.choice((1, 1, 2))):
        plan = [
            (rng.choice("RRWP"), G + rng.randrange(2) * PAGE) for _ in range(rng.randrange(1, 3) if number == 0 else 1)
        ]
        agents[f"device{number}"] = device(plan)
    return agents, SparseMem(words), make(params, {SID: Attachment(DID, ROOT, 3)}, QUEUE)
