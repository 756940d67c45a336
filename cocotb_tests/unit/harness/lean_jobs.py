"""Jobs that try what surrounds lane lean; test_lean.py runs them."""

import os
import signal
import sys

from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.scheduler import BenchAgent
from cocotb_tests.harness.smoke import job as smoke
from pymodel.effects import Delay

__all__ = ["crashes", "depends_on_the_lane", "endless", "no_cocotb"]


def _loaded() -> list[str]:
    """Modules of cocotb in this process."""
    return [name for name in sys.modules if name.partition(".")[0] in ("cocotb", "pygpi")]


def depends_on_the_lane(context: JobContext) -> LockStep:
    """The smoke job, with one page more where cocotb runs."""
    return smoke(context, pages=17 if _loaded() else 16)


def no_cocotb(context: JobContext) -> LockStep:
    """The smoke job, in a process that knows no cocotb."""
    known = _loaded()
    if known:
        raise AssertionError(f"lane lean loaded {known}")
    return smoke(context)


def crashes(context: JobContext) -> LockStep:
    """The smoke job, whose process ends as if the compiled design had touched foreign memory."""
    bench = smoke(context)

    def fault() -> BenchAgent[None]:
        yield Delay(60)
        os.kill(os.getpid(), signal.SIGSEGV)

    bench.scheduler.add("fault", fault())
    return bench


def endless(context: JobContext) -> LockStep:
    """An agent that never ends."""
    bench = context.lockstep()

    def wait() -> BenchAgent[None]:
        while True:
            yield Delay(1000)

    bench.scheduler.add("wait", wait())
    return bench
