"""Corpora of table images on the RTL, many images in one simulation: the job, and what starts it.

For each image: memory is cleared and filled, the root pointer set. In `vtd-ss` and `vtd-legacy` a global
context and IOTLB invalidation goes through the queue before each request; in `vtd-iotlb` the operations run
in order. After a fault the driver reads the fault record, compares it, and clears it. A refusal without a
record is "blocked".
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from cocotb_tests.corpus.golden import build, compare, invalidation, params_of
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.scheduler import Answer, Translate, Translation
from cocotb_tests.inputs.corpus import Corpus, Header, Image, IotlbImage, LegacyImage, Poke, read_corpus
from pymodel.effects import ReadRegister, WaitFor, WriteRegister
from pymodel.iommu.queue import ContextInvalidation, IotlbInvalidation
from pymodel.iommu.types import Outcome
from pymodel.memory import PhysMem
from pymodel.spec import descriptors as d
from pymodel.spec.faults import FAULT_RECORD, Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, GCMD, REGISTERS

__all__ = ["Runner", "corpus_job", "groups", "load_images", "run_group"]

JOB = "cocotb_tests.corpus.rtl:corpus_job"
_QUEUE_BYTES = 4096
_GROUP = 64  # bytes: context, IOTLB, interrupt, wait
_ON = GCMD.pack(te=1, qie=1)
_LISTED = 100
_STRUCTURES = 4  # pages that `build` may add: root, context, PASID directory, PASID table
Steps = Generator[Any, Any, Any]


def load_images(path: Path, limit: int | None = None) -> tuple[Header, list[Image]]:
    """Header and images of a corpus, the first `limit` of them."""
    corpus: Corpus = read_corpus(path)
    images: list[Image] = []
    for image in corpus.images():
        if limit is not None and len(images) >= limit:
            break
        images.append(image)
    return corpus.header, images


def groups(header: Header, images: Sequence[Image]) -> dict[IommuParams, list[Image]]:
    """The images by the parameters they need: one simulation each."""
    found: dict[IommuParams, list[Image]] = {}
    for image in images:
        found.setdefault(params_of(header, image), []).append(image)
    return found


def _free_pages(header: Header, images: Sequence[Image], count: int) -> list[int]:
    """Pages of RAM that no image uses or points at, from the end of the first range downwards."""
    taken: set[int] = set()
    for image in images:
        memory, _ = build(header, image)
        pokes = [op for op in image.ops if isinstance(op, Poke)] if isinstance(image, IotlbImage) else []
        taken.update(page >> 12 for page in memory.pages())
        taken.update(op.addr >> 12 for op in pokes)
        taken.update(
            value >> 12 & (1 << 40) - 1 for value in (*image.mem.values(), *(op.value for op in pokes))
        )
    start, end = sorted(header.ram)[0]
    free = (page << 12 for page in range((end >> 12) - 1, (start >> 12) - 1, -1) if page not in taken)
    found = [page for page, _ in zip(free, range(count), strict=False)]
    if len(found) < count:
        raise ValueError(f"no {count} free pages of RAM in {start:#x}..{end:#x}")
    return found


class Runner:
    """The driver of one simulation; `agent` is what the scheduler runs."""

    def __init__(self, header: Header, images: Sequence[Image], params: IommuParams, memory: PhysMem) -> None:
        self._header, self._images, self._params, self._memory = header, images, params, memory
        self._free = _free_pages(header, images, 2 + _STRUCTURES * len(images))
        self._queue, self._status = self._free.pop(), self._free.pop()
        self._tail = 0
        self._data = 0
        self._record = 0
        self._used: list[int] = []
        self.requests = 0
        self.skipped = 0
        """Invalidations that the queue refuses (AM above MAMV, address not aligned)."""
        self.disagreements: list[dict[str, Any]] = []
        self.count = 0
        """Disagreements, also those beyond the list."""

    def agent(self) -> Steps:
        """All images."""
        yield WriteRegister(REGISTERS["IQA"].offset, self._queue, 8)
        for image in self._images:
            rtaddr = self._load(image)
            yield WriteRegister(REGISTERS["RTADDR"].offset, rtaddr, 8)
            yield WriteRegister(REGISTERS["GCMD"].offset, _ON | GCMD.mask("srtp"), 4)
            yield from self._empty()
            steps = self._sequence(image) if isinstance(image, IotlbImage) else self._single(image)
            outcomes = yield from steps
            self.requests += len(outcomes)
            for found in compare(image, self._header, outcomes):
                self._object(found.image, found.request, found.access, found.iova, found.expected, found.got)

    def _load(self, image: Image) -> int:
        """Put the image into memory in one instant; the value for RTADDR."""
        for page in self._used:
            self._memory.clear_page(page)
        content, rtaddr = build(self._header, image)
        moved = self._moved(image, content)
        self._used = [moved.get(page, page) for page in content.pages()]
        if isinstance(image, IotlbImage):
            self._used += sorted(
                {op.addr & -4096 for op in image.ops if isinstance(op, Poke)} - set(self._used)
            )
        for page in content.pages():
            words = content.page_words(page)
            assert words is not None
            if page in moved:
                words = words.copy()
                for index in words.nonzero()[0]:
                    word = int(words[index])
                    words[index] = moved.get(word & -4096, word & -4096) | word & 4095
            self._memory.store_words(moved.get(page, page), words)
        return moved.get(rtaddr & -4096, rtaddr & -4096) | rtaddr & 4095

    def _moved(self, image: Image, content: PhysMem) -> dict[int, int]:
        """Pages that `build` added, and where to put them: pages that held nothing before.

        The judge of legal outcomes looks at every value that a word ever held; words that all images share
        would cost it more with each image.
        """
        if isinstance(image, LegacyImage):
            return {}
        own = {address & -4096 for address in image.mem} | {image.root}
        return {page: self._free.pop() for page in content.pages() if page not in own}

    def _single(self, image: Image) -> Steps:
        """Requests with empty caches, but for the first, whose caches are empty already."""
        outcomes: list[Outcome] = []
        for request in image.requests:
            if outcomes:
                yield from self._empty()
            outcomes.append((yield from self._request(image, len(outcomes), request.iova, request.write)))
        return outcomes

    def _sequence(self, image: IotlbImage) -> Steps:
        outcomes: list[Outcome] = []
        for op in image.ops:
            if isinstance(op, Poke):
                self._memory.store(op.addr, op.value)
            elif op.op == "req":
                outcomes.append((yield from self._request(image, len(outcomes), op.iova, op.write)))
            else:
                applied = invalidation(op, self._params)
                if applied is None:
                    self.skipped += 1
                else:
                    yield from self._submit([_descriptor(applied)])
        return outcomes

    def _request(self, image: Image, index: int, iova: int, write: bool) -> Steps:
        """One access; the outcome says whether the fault log holds it."""
        answer: Translation = yield Translate(self._header.sid, iova, write)
        yield Answer(answer)
        recorded = False
        if answer.reason:
            recorded = yield from self._fault_log(image, index, answer)
        return Outcome(
            Reason(answer.reason),
            answer.address,
            answer.level,
            bool(answer.r),
            bool(answer.w),
            bool(answer.snoop),
            recorded,
        )

    def _fault_log(self, image: Image, index: int, answer: Translation) -> Steps:
        """Whether the next fault record was written; compares and clears it."""
        offset = FAULT_RECORD_OFFSET + 16 * self._record
        high = yield ReadRegister(offset + 8, 8)
        if not high >> 63:
            return False
        low = yield ReadRegister(offset, 8)
        record = low | high << 64
        wanted = FAULT_RECORD.pack(
            address=answer.iova >> 12, sid=answer.sid, reason=answer.reason, t=int(not answer.write), f=1
        )
        if record != wanted:
            access = "w" if answer.write else "r"
            self._object(
                image.id, index, access, answer.iova, f"fault record {wanted:#034x}", f"{record:#034x}"
            )
        yield WriteRegister(offset + 12, 1 << 31, 4)
        self._record = (self._record + 1) % self._params.fault_records
        return True

    def _empty(self) -> Steps:
        """Empty all caches."""
        yield from self._submit(
            [
                d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=d.Granularity.GLOBAL),
                d.IOTLB_INV.pack(type=d.DescriptorType.IOTLB, g=d.Granularity.GLOBAL),
            ]
        )

    def _submit(self, descriptors: Sequence[int]) -> Steps:
        """Put at most three descriptors and a wait into the queue, a 64-byte line; wait for the status."""
        self._data = self._data % 0xFFFF_FFFF + 1
        wait = d.WAIT.pack(
            type=d.DescriptorType.WAIT, status_write=1, address=self._status >> 2, data=self._data
        )
        line = [
            *descriptors,
            *[d.INTERRUPT_INV.pack(type=d.DescriptorType.INTERRUPT)] * (3 - len(descriptors)),
            wait,
        ]
        store, base = self._memory.store, self._queue + self._tail
        for number, word in enumerate(line):
            store(base + 16 * number, word & (1 << 64) - 1)
            store(base + 16 * number + 8, word >> 64)
        self._tail = (self._tail + _GROUP) % _QUEUE_BYTES
        yield WriteRegister(REGISTERS["IQT"].offset, self._tail, 8)
        yield WaitFor(self._status, 0xFFFF_FFFF, self._data)

    def _object(self, image: int, request: int, access: str, iova: int, expected: str, got: str) -> None:
        self.count += 1
        if len(self.disagreements) < _LISTED:
            self.disagreements.append(
                {
                    "image": image,
                    "request": request,
                    "access": access,
                    "iova": hex(iova),
                    "expected": expected,
                    "got": got,
                }
            )


def _descriptor(applied: IotlbInvalidation | ContextInvalidation) -> int:
    if isinstance(applied, ContextInvalidation):
        return d.CONTEXT_INV.pack(
            type=d.DescriptorType.CONTEXT,
            g=applied.granularity,
            did=applied.did,
            sid=applied.sid,
            fm=applied.function_mask,
        )
    return d.IOTLB_INV.pack(
        type=d.DescriptorType.IOTLB,
        g=applied.granularity,
        dr=1,
        dw=1,
        did=applied.did,
        am=applied.am,
        ih=int(applied.ih),
        address=applied.address >> 12,
    )


class CorpusLockStep(LockStep):
    """A lock-step whose summary carries what the runner found."""

    runner: Runner

    def finish(self) -> dict[str, Any]:
        """The summary of the run, with `corpus`."""
        runner = self.runner
        return {
            **super().finish(),
            "corpus": {
                "requests": runner.requests,
                "skipped": runner.skipped,
                "disagreements": runner.disagreements,
                "count": runner.count,
            },
        }


def corpus_job(
    context: JobContext, *, path: str, limit: int | None = None, latency: int = 2
) -> CorpusLockStep:
    """The job: those images of the first `limit` of corpus `path` that need the parameters of this lane."""
    header, images = load_images(Path(path), limit)
    mine = groups(header, images).get(context.params, [])
    bench = CorpusLockStep(
        context.params,
        seed=context.seed,
        judges=context.judges,
        log=context.log,
        replay=context.replay,
        timing=MemoryTiming(latency=latency, write_latency=1),
        memory=PhysMem(header.ram),
    )
    bench.runner = Runner(header, mine, context.params, bench.memory)
    bench.scheduler.add("driver", bench.runner.agent(), gap=0)
    return bench


def run_group(
    path: Path,
    params: IommuParams,
    *,
    simulator: str,
    seed: int,
    limit: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Run the images that need `params` on the RTL; the summary. Raises `CosimFailed`."""
    from cocotb_tests.harness.cosim import cosimulate

    result = cosimulate(
        simulator,
        params,
        JOB,
        seed=seed,
        job_parameters={"path": str(path.absolute()), "limit": limit},
        replay=command,
        timeout_s=None,
        progress=progress,
    )
    return result.summary
