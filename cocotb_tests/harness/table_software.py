"""Software that edits page tables under traffic, with the invalidations that it owes, and sometimes other
ones."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from cocotb_tests.harness.host import Domain, Host
from cocotb_tests.harness.lockstep import LockStep
from pymodel.effects import Agent, CompareExchange, Delay, Store
from pymodel.paging.formats import Kind
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.paging.table import Status, Update
from pymodel.paging.update import Found, lookup, map_range, merge, protect, replace, split, unmap_range
from pymodel.spec import descriptors as d
from pymodel.spec.second_stage import INTERRUPT_FIRST, LEAVES

__all__ = ["Region", "TableSoftware"]

_RIGHTS = ((True, True),) * 3 + ((True, False), (False, True))


@dataclass(eq=False)
class Region:
    """The span of one entry at `level` of a domain's table; one agent edits it."""

    domain: Domain
    start: int
    level: int
    popular: list[Range] = field(default_factory=list)
    """Ranges that were mapped at some time, the latest last: where devices like to go."""

    @property
    def size(self) -> int:
        """Bytes."""
        return span(self.level)


@dataclass
class TableSoftware:
    """An agent that edits its regions until the bench stops."""

    bench: LockStep
    host: Host
    rng: random.Random
    regions: Sequence[Region]
    pause: int = 60
    """Longest pause between two updates, cycles."""
    operations: int = 0
    _debts: dict[int, list[int]] = field(default_factory=dict)
    """Updates whose invalidation was left out: domain id -> pages to free after it."""

    def run(self) -> Agent[None]:
        """The agent."""
        while not self.bench.stopping:
            yield Delay(self.rng.randrange(self.pause + 1))
            region = self.rng.choice(self.regions)
            yield from self._operation(region)
            self.operations += 1
            if self._debts and self.rng.random() < 0.25:
                yield from self._settle()
        yield from self._settle()

    # --- one update ----------------------------------------------------------------------------------------

    def populate(self, region: Region) -> Agent[None]:
        """Map much of a region; for the state before the first cycle."""
        rng, params = self.rng, self.host.params
        small = max(0, region.level - 1 - (region.level == 2 and params.large_pages < 1))
        kind = rng.randrange(4)
        if kind < 2 or (kind == 2 and region.level > params.large_pages):
            count = min(512, region.size // span(small))
            address = rng.randrange(1 << params.haw) & -span(region.level)
            r, w = rng.choice(_RIGHTS)
            length = count * span(small)
            yield from map_range(
                region.domain.table,
                region.start,
                address,
                length,
                r=r,
                w=w,
                max_level=min(small, params.large_pages),
            )
            region.popular.extend(Range(region.start, region.start + length) for _ in range(3))
        elif kind == 2:
            address = self._target(region.level)
            yield from map_range(region.domain.table, region.start, address, region.size)
            region.popular.append(Range(region.start, region.start + region.size))
        else:
            for _ in range(rng.randrange(1, 5)):
                yield from self._map(region)

    def _operation(self, region: Region) -> Agent[None]:
        rng = self.rng
        if rng.random() < 0.06:  # an invalidation that comes before the update instead of after it
            early = rng.choice(
                ([self.host.domain_descriptor(region.domain.did)], [self.host.global_descriptor()])
            )
            yield from self.host.submit(*early)
        kind = rng.choices(
            ("map", "unmap", "protect", "replace", "tamper", "split", "merge"), (38, 18, 12, 10, 10, 7, 5)
        )[0]
        table = region.domain.table
        if kind == "map":
            update = yield from self._map(region)
        elif kind == "unmap":
            range_ = self._range(region)
            update = yield from unmap_range(table, range_.start, range_.size)
            if update.status is Status.INSIDE_LARGE:
                kind = "split"
        elif kind == "protect":
            range_ = self._range(region)
            r, w = rng.choice(_RIGHTS)
            update = yield from protect(table, range_.start, range_.size, r=r, w=w)
        elif kind == "replace":
            update = yield from self._replace(region)
        elif kind == "tamper":
            yield from self._tamper(region)
            return
        if kind == "split":
            iova = region.start + (rng.randrange(region.size) & -PAGE)
            update = yield from split(table, iova)
        elif kind == "merge":
            if self.host.params.large_pages < 1:
                return
            iova = region.start + (rng.randrange(region.size) & -PAGE)
            update = yield from merge(table, iova, rng.randint(1, min(region.level, table.max_leaf_level)))
        yield from self._invalidate(region.domain, update)

    def _range(self, region: Region, large: float = 0.08) -> Range:
        """Some pages of the region: a few small ones, or with chance `large` a few large ones or all of
        it."""
        rng = self.rng
        if rng.random() < large:
            unit = span(rng.choice((max(0, region.level - 1), region.level)))
        else:
            unit = span(0)
        start, size = region.start, region.size
        if region.popular and rng.random() < 0.6:
            chosen = rng.choice(region.popular)
            if start <= chosen.start and chosen.end <= start + size and chosen.size >= unit:
                start, size = chosen.start & -unit, chosen.size
        count = max(1, size // unit)
        first = rng.randrange(count)
        length = min(count - first, rng.choice((1, 1, 2, 8, 16)))
        return Range(start + first * unit, start + (first + length) * unit)

    def _target(self, level: int) -> int:
        """A page address of this level, sometimes in the interrupt range."""
        rng = self.rng
        address = rng.randrange(1 << self.host.params.haw)
        if rng.random() < 0.04:
            address = INTERRUPT_FIRST + rng.randrange(1 << 20)
        return address & -span(level)

    def _map(self, region: Region) -> Agent[Update]:
        rng, params = self.rng, self.host.params
        range_ = self._range(region, large=0.35)
        if rng.random() < 0.3:  # a whole line of entries and more
            start = range_.start & -span(0) * 64
            range_ = Range(start, min(start + span(0) * 64, region.start + region.size))
        r, w = rng.choice(_RIGHTS)
        snp = params.snp_legal and rng.random() < 0.2
        extra = rng.choice(
            (0, 0, sum(f.mask for f in LEAVES[0] if f.ignored and f.name.startswith("ignored_6")))
        )
        level = min(region.level, params.large_pages)
        while span(level) > range_.size:
            level -= 1
        top = rng.randint(0, level)
        if range_.size // span(top) > 64:  # a table full of small pages costs thousands of stores
            top = level
        address = self._target(level)
        limit = 1 << params.haw
        if address + range_.size > limit:
            address = limit - range_.size & -span(level)
        length = min(range_.size, 64 * span(top))
        update = yield from map_range(
            region.domain.table, range_.start, address, length, r=r, w=w, snp=snp, extra=extra, max_level=top
        )
        if update.status is Status.DONE:
            region.popular.append(Range(range_.start, range_.start + length))
            del region.popular[:-32]
        return update

    def _replace(self, region: Region) -> Agent[Update]:
        iova = region.start + (self.rng.randrange(region.size) & -PAGE)
        found: Found = yield from lookup(region.domain.table, iova)
        update = yield from replace(region.domain.table, iova, self._target(found.entry.level))
        return update

    def _tamper(self, region: Region) -> Agent[None]:
        """Change bits of an entry that must not, or need not, be set; put it back later."""
        rng, table = self.rng, region.domain.table
        iova = region.start + (rng.randrange(region.size) & -PAGE)
        found: Found = yield from lookup(table, iova, rng.randint(0, region.level))
        entry = found.entry
        if entry.kind is Kind.EMPTY or entry.kind is Kind.RESERVED:
            return
        leaf = entry.kind is Kind.LEAF
        reserved = table.format.reserved_mask(entry.level, leaf)
        bits = [bit for bit in range(64) if reserved >> bit & 1]
        kind = rng.randrange(5)
        if kind < 2 and bits:
            word = entry.word | 1 << rng.choice(bits)
        elif kind == 2:
            word = entry.word & ~(1 << rng.randrange(2))
        elif kind == 3:
            word = entry.word & ~3
        else:
            word = entry.word ^ 1 << 55
        yield CompareExchange(found.address, entry.word, word)
        changed = Update(Status.DONE, (Range.of_entry(iova, entry.level),), keep_pointers=leaf)
        yield from self._invalidate(region.domain, changed)
        yield Delay(rng.randrange(200))
        yield Store(found.address, entry.word)
        yield from self._invalidate(region.domain, changed)

    # --- what is owed --------------------------------------------------------------------------------------

    def _invalidate(self, domain: Domain, update: Update) -> Agent[None]:
        if not update.ranges:
            return
        rng, host = self.rng, self.host
        kind = rng.choices(("page", "cover", "domain", "global", "later"), (58, 8, 14, 5, 15))[0]
        if kind == "later":
            self._debts.setdefault(domain.did, []).extend(update.pages)
            return
        ih = rng.randrange(2) if update.keep_pointers else 0
        values: list[int] = []
        if kind == "domain":
            values = [self._domain_descriptor(domain)]
        elif kind == "global":
            values = [host.global_descriptor()]
        else:
            for range_ in update.ranges:
                values += host.page_descriptors(domain.did, range_, ih, exact=kind == "page")
            if host.scalable and rng.random() < 0.3:
                values = [self._with_pasid(value) for value in values]
        if len(values) > 16:
            values = [self._domain_descriptor(domain)]
        if update.pages or rng.random() < 0.8:
            yield from host.sync(*values, interrupt=rng.randrange(2), fence=rng.randrange(2))
            for page in update.pages:
                host.pool.free(page)
        else:
            yield from host.submit(*values)

    def _domain_descriptor(self, domain: Domain) -> int:
        host = self.host
        if host.scalable and self.rng.random() < 0.3:
            return d.PASID_IOTLB_INV.pack(
                type=d.DescriptorType.PASID_IOTLB, g=d.PasidGranularity.IOTLB_PASID, did=domain.did,
                pasid=self.rng.randrange(1 << 20),
            )  # fmt: skip
        return host.domain_descriptor(domain.did)

    def _with_pasid(self, value: int) -> int:
        """The same page-selective invalidation as a PASID-IOTLB descriptor."""
        get = d.IOTLB_INV.get
        if get(value, "g") != d.Granularity.SELECTIVE:
            return value
        return d.PASID_IOTLB_INV.pack(
            type=d.DescriptorType.PASID_IOTLB, g=3, did=get(value, "did"), pasid=self.rng.randrange(1 << 20),
            am=get(value, "am"), ih=get(value, "ih"), address=get(value, "address"),
        )  # fmt: skip

    def _settle(self) -> Agent[None]:
        """The invalidations that were left out, and the pages that they held back."""
        debts, self._debts = self._debts, {}
        if debts:
            yield from self.host.sync(*[self.host.domain_descriptor(did) for did in debts])
            for pages in debts.values():
                for page in pages:
                    self.host.pool.free(page)
