"""Which completed invalidation dropped what (facts B2, B3, K1, K2).

An invalidation is *submitted* when the doorbell released it and *completed* when its wait was seen. A copy
that was read up to stamp x is gone once an invalidation covers it that was submitted at or after x and has
completed. For leaves the latest submission is enough. Of table pointers it also matters which invalidation
dropped an older copy: a leaf that was read through it survives where its page was outside the range.
"""

from pymodel.iommu.history import ALWAYS, NEVER
from pymodel.iommu.queue import ContextInvalidation, IotlbInvalidation, PasidCacheInvalidation
from pymodel.spec.descriptors import Granularity, PasidGranularity
from pymodel.spec.params import Architecture, IommuParams

__all__ = ["ALIVE", "Chain", "Coverage", "Drop", "Invalidation", "first_drop"]

Invalidation = ContextInvalidation | IotlbInvalidation | PasidCacheInvalidation

Drop = tuple[int, int]
"""(submitted, completed) of an invalidation that dropped a copy. What was read through the copy came before
this invalidation in queue order: it falls with it (if covered) and later ones, maybe not earlier ones."""

ALIVE: Drop = (NEVER, NEVER)
"""Nothing dropped it."""

Chain = list[Drop]
"""The latest invalidations that cover one key, oldest first."""

_CHAIN = 8
_BLOCKS = 1 << 17


def first_drop(chain: Chain | None, last_read: int) -> Drop:
    """The first invalidation that certainly dropped a copy read at the latest at `last_read`."""
    drop = ALIVE
    if chain:
        for link in reversed(chain):
            if link[0] < last_read:
                break
            drop = link
    return drop


def _extend(chain: Chain, link: Drop) -> None:
    chain.append(link)
    if len(chain) > _CHAIN:
        del chain[0]


def _trim(blocks: dict[int, int] | dict[int, Chain]) -> None:
    """Forget the least recently invalidated blocks; only more becomes legal."""
    if len(blocks) > _BLOCKS:
        for block in list(blocks)[: _BLOCKS // 2]:
            del blocks[block]


class Coverage:
    """Completed invalidations, found by dictionary look-ups: one for each range size in use."""

    def __init__(self, params: IommuParams) -> None:
        self._leaf_inside = params.inval_scope is Architecture.VTD
        self._pointer_inside = params.psc_scope is Architecture.VTD
        self.leaf_global = ALWAYS
        self.leaf_domain: dict[int, int] = {}
        self._leaf_range: dict[int, dict[int, dict[int, int]]] = {}
        """did -> log2 of the range -> block -> latest submission."""
        self._leaf_within: dict[tuple[int, int], dict[int, int]] = {}
        """(did, log2 of the page) -> block -> latest submission of a smaller range inside it."""
        self.pointer_global: Chain = []
        self.pointer_domain: dict[int, Chain] = {}
        self._pointer_range: dict[int, dict[int, dict[int, Chain]]] = {}
        self._pointer_within: dict[tuple[int, int], dict[int, Chain]] = {}
        self.context_global: Chain = []
        self.context_domain: dict[int, Chain] = {}
        self.context_device: dict[int, Chain] = {}
        self.pasid_global: Chain = []
        self.pasid_domain: dict[int, Chain] = {}
        self.pasid_in_domain: dict[tuple[int, int], Chain] = {}
        self.flushed = self.flushed_pasids = ALWAYS
        """Submissions of the latest global invalidations of contexts, and of contexts and PASID entries, that a global
        IOTLB invalidation followed: of context structures that were read up to then nothing is left, nor of tables
        that only they led to."""

    def apply(self, invalidation: Invalidation, submitted: int, completed: int) -> bool:
        """The invalidation has completed; True if it concerns context or PASID entries."""
        link = (submitted, completed)
        if isinstance(invalidation, IotlbInvalidation):
            self._iotlb(invalidation, link)
            return False
        if isinstance(invalidation, PasidCacheInvalidation):
            if invalidation.granularity is PasidGranularity.GLOBAL:
                _extend(self.pasid_global, link)
            elif invalidation.granularity is PasidGranularity.DOMAIN:
                _extend(self.pasid_domain.setdefault(invalidation.did, []), link)
            else:
                key = (invalidation.did, invalidation.pasid)
                _extend(self.pasid_in_domain.setdefault(key, []), link)
        elif invalidation.granularity is Granularity.GLOBAL:
            _extend(self.context_global, link)
        elif invalidation.granularity is Granularity.DOMAIN:
            _extend(self.context_domain.setdefault(invalidation.did, []), link)
        else:
            for sid in invalidation.sids():
                _extend(self.context_device.setdefault(sid, []), link)
        return True

    def _iotlb(self, invalidation: IotlbInvalidation, link: Drop) -> None:
        submitted = link[0]
        did = invalidation.did
        if invalidation.granularity is Granularity.GLOBAL:
            self._forget()
            self.leaf_global = submitted
            _extend(self.pointer_global, link)
            contexts = self.context_global[-1][0] if self.context_global else ALWAYS
            pasids = self.pasid_global[-1][0] if self.pasid_global else ALWAYS
            self.flushed, self.flushed_pasids = contexts, min(contexts, pasids)
        elif invalidation.granularity is Granularity.DOMAIN:
            self.leaf_domain[did] = submitted
            _extend(self.pointer_domain.setdefault(did, []), link)
        else:
            shift = 12 + invalidation.am
            address = invalidation.address
            leaves = self._leaf_range.setdefault(did, {}).setdefault(shift, {})
            block = address >> shift
            leaves.pop(block, None)  # keeps the dictionary in order of use
            leaves[block] = submitted
            _trim(leaves)
            if self._leaf_inside:
                for size in (21, 30):
                    if shift < size:
                        self._leaf_within.setdefault((did, size), {})[address >> size] = submitted
            if not invalidation.ih:
                self._pointers(did, shift, address, link)

    def _forget(self) -> None:
        """A global IOTLB invalidation covers whatever all earlier ones did: an entry that one of those dropped would
        now count as dropped by the global one, and nothing that was read before that is usable either way."""
        self.leaf_domain.clear()
        self._leaf_range.clear()
        self._leaf_within.clear()
        self.pointer_domain.clear()
        self._pointer_range.clear()
        self._pointer_within.clear()

    def _pointers(self, did: int, shift: int, address: int, link: Drop) -> None:
        ranges = self._pointer_range.setdefault(did, {}).setdefault(shift, {})
        chain = ranges.pop(address >> shift, [])
        _extend(chain, link)
        ranges[address >> shift] = chain
        _trim(ranges)
        if self._pointer_inside:
            for size in (21, 30, 39, 48):
                if shift < size:
                    within = self._pointer_within.setdefault((did, size), {})
                    _extend(within.setdefault(address >> size, []), link)

    def everything(self, did: int) -> int:
        """Submission of the latest completed invalidation that covers all leaves and pointers of a domain."""
        return max(self.leaf_global, self.leaf_domain.get(did, ALWAYS))

    def leaf(self, did: int, iova: int, level: int) -> int:
        """Submission of the latest completed invalidation that covers a cached leaf of this size."""
        bound = max(self.leaf_global, self.leaf_domain.get(did, ALWAYS))
        size = 12 + 9 * level
        for shift, blocks in self._leaf_range.get(did, {}).items():
            if shift >= size:
                found = blocks.get(iova >> shift)
                if found is not None and found > bound:
                    bound = found
        if level and self._leaf_inside:
            found = self._leaf_within.get((did, size), {}).get(iova >> size)
            if found is not None and found > bound:
                bound = found
        return bound

    def pointer(self, did: int, iova: int, level: int, last_read: int) -> Drop:
        """What dropped a cached pointer out of the table at `level`, read at the latest at `last_read`."""
        drop = min(
            first_drop(self.pointer_global, last_read), first_drop(self.pointer_domain.get(did), last_read)
        )
        size = 12 + 9 * level
        for shift, blocks in self._pointer_range.get(did, {}).items():
            if shift >= size:
                drop = min(drop, first_drop(blocks.get(iova >> shift), last_read))
        if self._pointer_inside:
            within = self._pointer_within.get((did, size))
            if within is not None:
                drop = min(drop, first_drop(within.get(iova >> size), last_read))
        return drop

    def latest_pointer(self, did: int, iova: int, level: int) -> int:
        """Submission of the latest completed invalidation that covers a pointer out of a table at `level`."""
        size = 12 + 9 * level
        chains = [self.pointer_global, self.pointer_domain.get(did)]
        for shift, blocks in self._pointer_range.get(did, {}).items():
            if shift >= size:
                chains.append(blocks.get(iova >> shift))
        if self._pointer_inside:
            chains.append(self._pointer_within.get((did, size), {}).get(iova >> size))
        return max((chain[-1][0] for chain in chains if chain), default=ALWAYS)

    def context(self, sid: int, did: int | None, scalable: bool, last_read: int) -> Drop:
        """What dropped a cached context entry; domain-selective ones cover all in scalable mode (I6)."""
        drop = min(
            first_drop(self.context_global, last_read), first_drop(self.context_device.get(sid), last_read)
        )
        if scalable:
            for chain in self.context_domain.values():
                drop = min(drop, first_drop(chain, last_read))
        elif did is not None:
            drop = min(drop, first_drop(self.context_domain.get(did), last_read))
        return drop

    def pasid(self, did: int | None, pasid: int, last_read: int) -> Drop:
        """What dropped a cached PASID entry; without a domain: a cached directory entry."""
        drop = first_drop(self.pasid_global, last_read)
        if did is not None:
            drop = min(
                drop,
                first_drop(self.pasid_domain.get(did), last_read),
                first_drop(self.pasid_in_domain.get((did, pasid)), last_read),
            )
        return drop
