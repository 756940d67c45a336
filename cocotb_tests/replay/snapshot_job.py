"""The requests of a snapshot as a job: translation is on over its memory, every answer is compared."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.scheduler import Drain, Translate, Translation
from cocotb_tests.inputs.snapshot import Snapshot, SnapshotRequest, read_snapshot
from pymodel.effects import WriteRegister
from pymodel.iommu.types import Outcome
from pymodel.spec.faults import Reason
from pymodel.spec.registers import GCMD, REGISTERS

__all__ = ["agrees", "snapshot_job"]


def agrees(request: SnapshotRequest, outcome: Outcome) -> bool:
    """Whether an answer is the recorded one: reason, or address, page size and permission."""
    if request.fault is not None:
        return outcome.reason == request.fault
    if request.pte is None:
        return not outcome.reason and outcome.address == request.iova
    assert request.pa is not None
    assert request.mask is not None
    address = request.pa & ~request.mask | request.iova & request.mask
    page = (1 << 12 + 9 * outcome.level) - 1
    rights = outcome.r | outcome.w << 1
    return not outcome.reason and (address, request.mask, request.perm) == (outcome.address, page, rights)


class SnapshotLockStep(LockStep):
    """A lock-step whose summary says which requests were answered otherwise."""

    answers: list[tuple[SnapshotRequest, Translation]]

    def finish(self) -> dict[str, Any]:
        """The summary of the run, with `requests` and `wrong`."""
        wrong = [
            f"{request.rw} {request.iova:#x} by {request.bdf:#x}: {got!r}"
            for request, got in self.answers
            if not agrees(request, _outcome(got))
        ]
        return {**super().finish(), "requests": len(self.answers), "wrong": wrong}


def _outcome(got: Translation) -> Outcome:
    return Outcome(Reason(got.reason), got.address, got.level, bool(got.r), bool(got.w), bool(got.snoop))


def _agent(
    snapshot: Snapshot, answers: list[tuple[SnapshotRequest, Translation]]
) -> Generator[Any, Any, None]:
    yield WriteRegister(REGISTERS["RTADDR"].offset, snapshot.rtaddr, 8)
    yield WriteRegister(REGISTERS["GCMD"].offset, GCMD.pack(srtp=1, te=1), 4)
    for request in snapshot.requests:
        answers.append((request, (yield Translate(request.bdf, request.iova, request.rw == "w"))))
    yield Drain()


def snapshot_job(context: JobContext, *, path: str) -> SnapshotLockStep:
    """The job: all requests of the snapshot `path`, pipelined."""
    snapshot = read_snapshot(Path(path))
    bench = SnapshotLockStep(
        context.params,
        seed=context.seed,
        judges=context.judges,
        log=context.log,
        replay=context.replay,
        memory=snapshot.memory(),
    )
    bench.answers = []
    bench.scheduler.add("driver", _agent(snapshot, bench.answers))
    return bench
