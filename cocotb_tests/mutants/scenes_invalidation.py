"""Scenarios about what an invalidation must reach: walks in flight, ranges, pointers, domains, answers on their way."""

from cocotb_tests.harness.host import Device, Domain
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.patterns import ALWAYS, ReadyPattern
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Translate, Translation
from cocotb_tests.mutants.stage import FRAMES, SPARE, Stage, page_inv
from pymodel.effects import Delay, Store
from pymodel.spec import descriptors as d

__all__ = ["domains", "held_answers", "in_flight", "large_pages", "pointers", "ranges"]

_PAGE = 4096


def in_flight(
    context: JobContext, kind: str = "page", first: int = 6, last: int = 34, stall: int = 0, jitter: int = 0
) -> LockStep:
    """While two walks are in flight their top-level pointer is changed and invalidated, at every offset in turn.

    Then the old table is used for something else, and both pages are read again.
    """
    stage = Stage(context, latency=2 if jitter else 8, jitter=jitter, reorder=jitter > 0, stall=stall)
    domain, shadow = stage.domain(3), stage.domain(4)
    device = stage.device(0x0300, domain)
    rounds, pages = range(first, last), (0, 9)  # two lines: both slots are busy
    level = 2 if kind == "beside" else 0  # of what is freed: the range covers no pointer below that of the top level
    for number in rounds:
        iova = number << 39
        stage.map(domain, iova, FRAMES + number * 0x10_0000, 16)
        stage.map(shadow, iova, SPARE + number * 0x10_0000, 16)

    junk = stage.word(stage.entry(shadow, first << 39, level))

    def descriptor(iova: int) -> int:
        if kind == "domain":
            return stage.host.domain_descriptor(domain.did)
        if kind == "beside":  # another page that the same top-level pointer serves
            return page_inv(domain.did, iova + (100 << 30))
        return stage.host.global_descriptor() if kind == "global" else page_inv(domain.did, iova)

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        yield from stage.access(device, 0x1000)
        for number in rounds:
            iova = number << 39
            new = stage.word(stage.entry(shadow, iova, 3))
            top = stage.entry(domain, iova, 3)
            freed = stage.entry(domain, iova, level)
            walks: list[Translation] = []
            for page in pages:
                translation: Translation = yield Translate(device.sid, iova + page * _PAGE)
                walks.append(translation)
            yield Delay(number)
            yield Store(top, new)
            yield from stage.host.sync(descriptor(iova))
            for page in pages:  # the old table is free now, and used for something else
                yield Store(freed + 8 * page, junk)
            for translation in walks:
                yield Answer(translation)
            yield from stage.accesses(device, [iova + page * _PAGE for page in pages])

    stage.run("software", software())
    return stage.bench


def ranges(context: JobContext) -> LockStep:
    """Cached pages around the ends of a range are changed, the range is invalidated, pages there are read."""
    stage = Stage(context, latency=2)
    domain = stage.domain(5)
    device = stage.device(0x0300, domain)
    base, pages = 0x4000_0000, 32
    stage.map(domain, base, FRAMES, pages)
    entries = [stage.entry(domain, base + page * _PAGE) for page in range(pages)]
    cases = [(0, 0), (7, 0), (8, 0), (6, 1), (4, 2), (20, 2), (8, 3), (16, 4), (0, 4), (0, 5)]

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        for round_, (start, am) in enumerate(cases):
            for line in range(0, pages, 8):
                yield from stage.access(device, base + line * _PAGE)
            frame = SPARE + (round_ << 20)
            yield from stage.store_all([(entry, frame + page * _PAGE | 3) for page, entry in enumerate(entries)])
            yield from stage.host.sync(page_inv(domain.did, base + start * _PAGE, am, ih=round_ & 1))
            end = start + (1 << am) - 1
            wanted = sorted({start, end, (start + end) // 2, max(start - 1, 0), min(end + 1, pages - 1)})
            yield from stage.accesses(device, [base + page * _PAGE + 8 for page in wanted])
            yield from stage.host.sync(stage.host.domain_descriptor(domain.did))

    stage.run("software", software())
    return stage.bench


def large_pages(context: JobContext) -> LockStep:
    """Large leaves are changed and invalidated by ranges inside them, of their size, and around them."""
    stage = Stage(context, latency=2)
    domain = stage.domain(6)
    device = stage.device(0x0300, domain)
    small, medium, huge = 0x4000_0000, 0x8000_0000, 0x1_0000_0000
    top = context.params.large_pages
    stage.map(domain, small, FRAMES, 16)
    stage.map(domain, medium, FRAMES + (1 << 30), 16 << 9, top=1)
    stage.map(domain, huge, FRAMES + (2 << 30), 4 << 18, top=top)
    leaves = [
        (small + 5 * _PAGE, 0), (medium + (3 << 21), 1), (medium + (8 << 21), 1), (huge + (1 << 30), top)
    ]  # fmt: skip
    cases = [
        (1, 0x5000, 0), (1, 0x1F_F000, 0), (1, 0, 9), (2, 0x10_0000, 8), (3, 0x123_4000, 0), (3, 0x20_0000, 9),
        (3, 0, 18), (0, 0, 0), (1, 0x6000, 1),
    ]  # fmt: skip

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        for round_, (which, inside, am) in enumerate(cases):
            iova, level = leaves[which]
            yield from stage.accesses(device, [iova + inside, iova + 0x123])
            size = 1 << 12 + 9 * level
            entry = stage.entry(domain, iova, level)
            word = SPARE + (round_ << 30) & -size | (0x83 if level else 3)
            yield Store(entry, word)
            yield from stage.host.sync(page_inv(domain.did, iova + inside & -(_PAGE << am), am, ih=1))
            yield from stage.accesses(device, [iova + inside, iova + size - 8])

    stage.run("software", software())
    return stage.bench


def pointers(context: JobContext) -> LockStep:
    """A table is taken away and used again elsewhere: nothing may reach it through its old pointer after IH=0."""
    stage = Stage(context, latency=2)
    domain = stage.domain(7)
    device = stage.device(0x0300, domain)
    plans: list[tuple[int, str]] = [
        (1, "page"), (1, "domain"), (2, "page"), (1, "global"), (2, "domain"), (3, "page"), (1, "cover"), (1, "inside")
    ]  # fmt: skip
    places = []
    for round_, (level, kind) in enumerate(plans):
        sector = (7 << 30 | 7 << 21) * (round_ & 1)  # the first or the last entry of its line
        iova, other = (2 * round_ + 1 << 39) + sector, (2 * round_ + 2 << 39) + sector
        stage.map(domain, iova, FRAMES + (round_ << 24), 32)
        stage.map(domain, other, SPARE + (round_ << 24), 32)
        places.append((iova, other, level, kind))

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        for iova, other, level, kind in places:
            yield from stage.accesses(device, [iova, iova + 8 * _PAGE])
            pointer, reused = stage.entry(domain, iova, level), stage.entry(domain, other, level)
            table = stage.word(pointer)
            spare = stage.word(reused)
            yield Store(pointer, 0)
            if kind == "page":
                yield from stage.host.sync(page_inv(domain.did, iova))
            elif kind == "cover":
                yield from stage.host.sync(page_inv(domain.did, iova, am=9))
            elif kind == "inside":
                yield from stage.host.sync(page_inv(domain.did, iova + 24 * _PAGE, am=3))
            elif kind == "domain":
                yield from stage.host.sync(stage.host.domain_descriptor(domain.did))
            else:
                yield from stage.host.sync(stage.host.global_descriptor())
            yield Store(reused, table)  # the freed table serves another place, with other leaves
            leaf = stage.entry(domain, other + 16 * _PAGE)
            yield Store(leaf, spare & 0xFF_FFFF_F000 | 3)
            yield from stage.accesses(device, [iova + 16 * _PAGE, other + 16 * _PAGE, iova + 24 * _PAGE])

    stage.run("software", software())
    return stage.bench


def domains(context: JobContext) -> LockStep:
    """Two domains use the same addresses; devices move between them; functions are invalidated by mask."""
    stage = Stage(context, latency=3)
    first, second = stage.domain(0x21), stage.domain(0x22)
    base = 0x7_4000_0000
    for domain, frame in ((first, FRAMES), (second, SPARE)):
        stage.map(domain, base, frame, 32)
    devices = [stage.device(sid, first if sid & 1 else second) for sid in (0x0300, 0x0301)]
    functions = [stage.device(0x0400 | function, first) for function in range(8)]

    def context_inv(device: Device, fm: int, g: int = 3, did: int = 0) -> int:
        return d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=g, sid=device.sid, fm=fm, did=did)

    def both(iova: int) -> BenchAgent[None]:
        asked = []
        for device in devices:
            translation = yield Translate(device.sid, iova)
            asked.append(translation)
        for translation in asked:
            yield Answer(translation)

    def move(device: Device, domain: Domain) -> BenchAgent[None]:
        yield from stage.host.detach(device)
        device.domain = domain
        yield from stage.host.attach(device)

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        for device in devices:
            yield from stage.access(device, base)
        for page in (0, 8, 9, 16):  # walks of both at once, then both again
            yield from both(base + page * _PAGE)
            yield from both(base + page * _PAGE)
        for number, domain in enumerate((first, second, first)):
            for other in (first, second):
                yield Store(stage.entry(other, base), SPARE + (number + 1 << 24) + (other.did << 12) | 3)
            if number == 2:
                yield from host.sync(page_inv(domain.did, base))
            else:
                yield from host.sync(host.domain_descriptor(domain.did))
            yield from both(base)
        yield from host.sync(host.global_descriptor())
        yield from both(base)
        for fm, low in ((0, 1), (1, 2), (2, 4), (3, 7), (1, 6), (2, 1)):  # two entries fit: one named, one masked
            named = functions[low]
            masked = functions[low ^ (0, 4, 2, 1)[fm]]
            domain = second if named.domain is first else first
            yield from stage.accesses(named, [base])
            yield from stage.accesses(masked, [base])
            yield from move(named, domain)
            yield from move(masked, domain)
            yield from host.sync(context_inv(named, fm))
            yield from stage.accesses(named, [base])
            yield from stage.accesses(masked, [base])
            yield from host.sync(context_inv(named, 3))
        for number, device in enumerate(devices):
            yield from stage.access(device, base)
            was = device.domain
            assert was is not None
            yield from move(device, second if was is first else first)
            if number:
                yield from host.sync(context_inv(device, 0, g=1))
            else:
                yield from host.sync(context_inv(device, 0, g=2, did=was.did))
            yield from both(base + 24 * _PAGE)

    stage.run("software", software())
    return stage.bench


def held_answers(context: JobContext, port: str = "hits") -> LockStep:
    """Consumers stall for long while pages change: a wait may complete only when no old answer is on its way."""
    slow = ReadyPattern(12, 12)
    stage = Stage(
        context, latency=2, hits=slow if port == "hits" else ALWAYS, completions=ALWAYS if port == "hits" else slow
    )
    domain = stage.domain(9)
    device = stage.device(0x0300, domain)
    base = 0x5_0000_0000
    stage.map(domain, base, FRAMES, 32)
    rounds = 14

    def traffic() -> BenchAgent[None]:
        yield Delay(40)
        for number in range(rounds * 10):
            page = number % 3 if port == "hits" else number * 5 % 32
            yield Translate(device.sid, base + page * _PAGE + number, bool(number & 1))

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        yield Delay(60)
        for round_ in range(rounds):
            frame = SPARE + (round_ << 20)
            for page in range(32):
                yield Store(stage.entry(domain, base + page * _PAGE), frame + page * _PAGE | 3)
            yield from stage.host.sync(page_inv(domain.did, base, am=5, ih=1), fence=round_ & 1)
            yield Delay(round_ % 5 * 7)

    stage.run("traffic", traffic())
    stage.run("software", software())
    return stage.bench
