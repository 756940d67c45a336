"""Corpora of recorded verdicts on the architectural model, and the comparison that the RTL runner shares.

`outcomes` and `sequence` produce what the golden model says; `compare` holds any producer's outcomes against
the file. What counts (README of the recordings): `spec` replaces `expect`; `alt` lists further reasons;
"blocked" is a refusal that is not recorded; in scalable mode the recorded legacy number stands for the
published reasons; where a sequence gives `allowed`, an answer has to be one of those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cocotb_tests.inputs.corpus import (
    CorpusRequest,
    Expect,
    Header,
    Image,
    Invalidate,
    IotlbImage,
    LegacyImage,
    Poke,
    SecondStageImage,
)
from pymodel.iommu import Judge, Outcome, Request, translate
from pymodel.iommu.queue import ContextInvalidation, IotlbInvalidation
from pymodel.memory import PhysMem
from pymodel.spec import context as layout
from pymodel.spec.descriptors import Granularity
from pymodel.spec.faults import SCALABLE_OF_LEGACY, Reason
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.registers import CAP, ECAP

__all__ = ["Disagreement", "build", "compare", "compare_sets", "invalidation", "outcomes", "params_of",
"sequence"]

_WIDTH = {levels: code for code, levels in layout.ADDRESS_WIDTH_LEVELS.items()}


@dataclass(frozen=True)
class Disagreement:
    """One request whose outcome is not what the corpus wants."""

    image: int
    request: int
    """Index among the image's requests."""
    iova: int
    access: str
    expected: str
    got: str

    def __str__(self) -> str:
        return (
            f"image {self.image} request {self.request} ({self.access} {self.iova:#x}): "
            f"expected {self.expected}, got {self.got}"
        )


def params_of(header: Header, image: Image) -> IommuParams:
    """Parameters of the IOMMU that the corpus was recorded on, as far as they change verdicts."""
    levels: set[int] = {3, 4, 5}
    large, mask, passing = 2, 18, True
    if header.cap is not None:
        levels = {depth for depth in (3, 4, 5) if CAP.get(header.cap, "sagaw") >> (depth - 2) & 1}
        large = {0: 0, 1: 1}.get(CAP.get(header.cap, "sslps") & 3, 2)
        mask = min(CAP.get(header.cap, "mamv"), 52)
    if header.ecap is not None:
        passing = bool(ECAP.get(header.ecap, "pt"))
    if not isinstance(image, LegacyImage):
        levels.add(image.levels)
    return IommuParams(
        haw=image.haw or header.haw,
        levels=tuple(sorted(levels)),
        large_pages=large,
        max_address_mask=mask,
        snoop_control=header.snoop,
        pass_through=passing,
        scalable=header.mode == "scalable",
    )


def _free_pages(header: Header, image: SecondStageImage | IotlbImage, count: int) -> list[int]:
    """Pages of RAM that the image neither uses nor points at."""
    taken = {address >> 12 for address in image.mem} | {image.root >> 12}
    values = list(image.mem.values())
    if isinstance(image, IotlbImage):
        for op in image.ops:
            if isinstance(op, Poke):
                taken.add(op.addr >> 12)
                values.append(op.value)
    for value in values:
        taken.add(value >> 12 & ((1 << 40) - 1))
    found: list[int] = []
    for start, end in header.ram:
        page = -(-start // 4096)
        while page < end >> 12 and len(found) < count:
            if page not in taken:
                found.append(page << 12)
            page += 1
    if len(found) < count:
        raise ValueError(f"image {image.id}: no {count} free pages of RAM for root and context tables")
    return found


def build(header: Header, image: Image) -> tuple[PhysMem, int]:
    """Memory of the image with root and context structures around its table, and the value for RTADDR."""
    memory = PhysMem(header.ram)
    for address, value in image.mem.items():
        memory.store(address, value)
    if isinstance(image, LegacyImage):
        return memory, image.rtaddr
    bus, devfn = header.sid >> 8, header.sid & 0xFF
    root, context, directory, pasids = _free_pages(header, image, 4)
    width = _WIDTH[image.levels]
    if header.mode == "legacy":
        entry = layout.LEGACY_CONTEXT.pack(p=1, table=image.root >> 12, aw=width, did=image.did)
        memory.store(root + 16 * bus, context | 1)
        _store(memory, context + 16 * devfn, entry, 2)
        return memory, root
    memory.store(root + 16 * bus + (8 if devfn & 0x80 else 0), context | 1)
    _store(memory, context + 32 * (devfn & 0x7F),
           layout.SCALABLE_CONTEXT.pack(p=1, pasid_directory=directory >> 12), 4)  # fmt: skip
    memory.store(directory, pasids | 1)
    entry = layout.PASID_ENTRY.pack(
        p=1, aw=width, pgtt=layout.PGTT_SECOND_STAGE, table=image.root >> 12, did=image.did
    )
    _store(memory, pasids, entry, 8)
    return memory, root | layout.RTADDR.pack(ttm=layout.TTM_SCALABLE)


def _store(memory: PhysMem, address: int, value: int, words: int) -> None:
    for index in range(words):
        memory.store(address + 8 * index, value >> (64 * index) & ((1 << 64) - 1))


def outcomes(header: Header, image: SecondStageImage | LegacyImage) -> list[Outcome]:
    """What the golden model answers, each request with empty caches."""
    params = params_of(header, image)
    memory, rtaddr = build(header, image)
    return [
        translate(params, memory, rtaddr, Request(header.sid, None, request.iova, request.write))
        for request in image.requests
    ]


def invalidation(op: Invalidate, params: IommuParams) -> IotlbInvalidation | ContextInvalidation | None:
    """The invalidation of a sequence; None for one that the queue refuses (AM above MAMV, not aligned)."""
    target, _, scope = op.what.partition("-")
    if target == "context":
        scopes = {"global": Granularity.GLOBAL, "domain": Granularity.DOMAIN, "device": Granularity.SELECTIVE}
        return ContextInvalidation(scopes[scope], op.did, op.sid, op.fm)
    if scope == "global":
        return IotlbInvalidation(Granularity.GLOBAL)
    if scope == "domain":
        return IotlbInvalidation(Granularity.DOMAIN, op.did)
    if op.am > params.max_address_mask or op.addr & ((1 << (12 + op.am)) - 1):
        return None
    return IotlbInvalidation(Granularity.SELECTIVE, op.did, op.addr, op.am, op.ih)


def sequence(
    header: Header, image: IotlbImage, inval_scope: Architecture = Architecture.VTD
) -> list[frozenset[Outcome]]:
    """The legal outcomes of each request of a sequence, one operation a cycle.

    `allowed` in the recordings counts an invalidation as covering an address only if the range holds the
    address itself: a large page may survive (K1=AMD) or be cached in pieces. Our sets are the same under
    K1=AMD. Under K1=VTD, which drops every leaf that overlaps the range (facts K1; J: the emulation does
    so too), they are subsets.
    """
    params = replace(params_of(header, image), inval_scope=inval_scope)
    memory, rtaddr = build(header, image)
    judge = Judge(params, memory)
    judge.set_root(0, rtaddr)
    judge.enable(0, True)
    memory.observers.append(judge.stored)
    found: list[frozenset[Outcome]] = []
    for time, op in enumerate(image.ops, start=1):
        judge.advance(time)
        if isinstance(op, Poke):
            memory.store(op.addr, op.value)
        elif isinstance(op, Invalidate):
            applied = invalidation(op, params)
            if applied is not None:
                judge.submitted(time, applied)
                judge.completed(time)
        else:
            found.append(judge.legal(Request(header.sid, None, op.iova, op.write), time, time))
    return found


def _reasons(fault: int, header: Header) -> frozenset[int]:
    """Reason codes that a recorded number stands for."""
    try:
        legacy = Reason(fault)
    except ValueError:
        return frozenset({fault})
    if header.mode == "scalable":
        return frozenset(SCALABLE_OF_LEGACY.get(legacy, {legacy}))
    return frozenset({fault})


def _fits(outcome: Outcome, expect: Expect, header: Header) -> bool:
    if expect.pa is not None:
        size = 0x1000 << (9 * outcome.level)
        return not outcome.reason and outcome.address == expect.pa and (expect.page or size) == size
    if expect.blocked:
        return bool(outcome.reason) and not outcome.recorded
    assert expect.fault is not None
    return outcome.recorded and outcome.reason in _reasons(expect.fault, header)


def _verdicts(request: CorpusRequest) -> list[Expect]:
    """Every verdict that the file accepts."""
    if request.allowed is not None:
        return list(request.allowed)
    first = request.spec or request.expect
    if first.fault is None:
        return [first]
    return [first, *(Expect.model_construct(fault=number) for number in request.alt)]


def _disagreement(image: Image, index: int, request: CorpusRequest, got: str) -> Disagreement:
    expected = " or ".join(str(expect) for expect in _verdicts(request))
    return Disagreement(image.id, index, request.iova, request.access, expected, got)


def compare(image: Image, header: Header, results: Sequence[Outcome]) -> list[Disagreement]:
    """Hold one outcome for each request against the file; `ValueError` for another number of outcomes.

    `Outcome.recorded` has to say whether the fault log got a record.
    """
    requests = image.requests
    if len(results) != len(requests):
        raise ValueError(f"image {image.id} has {len(requests)} requests, not {len(results)}")
    found: list[Disagreement] = []
    for index, (request, outcome) in enumerate(zip(requests, results, strict=True)):
        if not any(_fits(outcome, expect, header) for expect in _verdicts(request)):
            found.append(_disagreement(image, index, request, str(outcome)))
    return found


def compare_sets(
    image: IotlbImage, header: Header, results: Sequence[frozenset[Outcome]], *, subset: bool = False
) -> list[Disagreement]:
    """Hold our legal sets against `allowed`: the same translations and faults, no more, no less.

    With `subset` ours may be smaller, but has to hold the recorded answer where that is no quirk.
    """
    found: list[Disagreement] = []
    for index, (request, legal) in enumerate(zip(image.requests, results, strict=True)):
        verdicts = _verdicts(request)
        extra = [one for one in legal if not any(_fits(one, expect, header) for expect in verdicts)]
        missing = [expect for expect in verdicts if not any(_fits(one, expect, header) for one in legal)]
        if subset:
            told = request.quirk or any(_fits(one, request.expect, header) for one in legal)
            missing = [] if told else [request.expect]
        if extra or missing:
            found.append(_disagreement(image, index, request, " or ".join(str(one) for one in sorted(legal))))
    return found
