"""One job in the process that simulates, whatever drives the design: set-up, progress, result, failures."""

import gc
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cocotb_tests.harness.bench_io import report_progress, report_result
from cocotb_tests.harness.errors import BenchError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.job import JobContext, load_factory, params_from_json
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.pins import InputPins

__all__ = ["RESET_EDGES", "Session", "reported", "session"]

RESET_EDGES = 3
"""Clock cycles with `rst` = 1 before cycle 0."""

_PROGRESS = 16_384  # cycles between two progress reports
_ALLOCATIONS = 100_000  # between two collections of garbage: a bench makes hardly any


class Session:
    """A job that is ready to run: a lane calls `bench.cycle`, drives the inputs as `pins` packs them, and calls
    `progress` from `report_at` on and `finish` at the end."""

    def __init__(self, bench: LockStep, pins: InputPins) -> None:
        self.bench, self.pins = bench, pins
        self.report_at = _PROGRESS
        """Cycle from which on `progress` is due."""
        gc.collect()
        gc.freeze()  # tables and models stay until the end
        gc.set_threshold(_ALLOCATIONS)
        self._started = time.process_time()

    def progress(self) -> None:
        """Tell the host how far the run is."""
        bench = self.bench
        self.report_at += _PROGRESS
        report_progress({"cycle": bench.now, "limit": bench.limit, "answers": bench.statistics.answers})

    def finish(self) -> None:
        """The run is over: final checks, and the summary for the host."""
        elapsed = time.process_time() - self._started
        bench = self.bench
        speed = {"loop_seconds": round(elapsed, 6), "cycles_per_second": round(bench.now / elapsed)}
        report_result({**bench.finish(), **speed})


@contextmanager
def session(parameters: Mapping[str, Any]) -> Iterator[Session]:
    """The job that the host asks for; its event log appears under its name once it is complete.

    `parameters["log"]` is None for no log, else [draft, file], both None for the hash alone.
    """
    params = params_from_json(parameters["params"])
    log: EventLog | None = None
    if parameters.get("log") is not None:
        draft, target = parameters["log"]
        log = EventLog(draft)
    try:
        context = JobContext(params, parameters["seed"], parameters["judges"], log, parameters["replay"])
        bench = load_factory(parameters["job"])(context, **parameters["job_parameters"])
        yield Session(bench, InputPins(params))
    finally:
        if log is not None:
            log.close()
            if target is not None:
                Path(draft).replace(target)


@contextmanager
def reported() -> Iterator[None]:
    """What is raised inside goes on, and the host gets to know it as `kind` and `failure`."""
    try:
        yield
    except BenchError as error:
        fields = getattr(error, "fields", [])
        report_result(
            {"failure": error.explain(), "kind": type(error).__name__, "cycle": error.cycle, "fields": fields}
        )
        raise
    except Exception as error:
        report_result({"failure": traceback.format_exc(), "kind": type(error).__name__})
        raise
