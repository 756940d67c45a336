"""Jobs that try what surrounds lane lean; test_lean.py runs them."""

import os
import signal
import sys

from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.scheduler import BenchAgent
from cocotb_tests.harness.smoke import job as smoke
from pymodel.effects import Delay

__all__ = ["crashes", "endless", "no_cocotb"]


def no_cocotb(context: JobContext) -> LockStep:
    """The smoke job, in a process that knows no cocotb."""
    known = [name for name in sys.modules if name.partition(".")[0] in ("cocotb", "pygpi")]
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
