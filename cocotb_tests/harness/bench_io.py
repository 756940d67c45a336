"""What a bench and the host that started it tell each other; used inside the simulation.

The host side is `harness.simulators.run`, which writes one JSON file and names it in one environment
variable.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["BENCH_VARIABLE", "bench_parameters", "report_progress", "report_result"]

BENCH_VARIABLE = "TWODIM_BENCH"


@functools.cache
def _bench_file() -> dict[str, Any]:
    path = os.environ.get(BENCH_VARIABLE)
    if path is None:
        raise RuntimeError(
            "no bench parameters: this function works inside a simulation that simulators.run started"
        )
    return _read(Path(path))


def bench_parameters() -> dict[str, Any]:
    """Inside the simulation: the `parameters` of the `run` call."""
    return dict(_bench_file()["parameters"])


def report_result(result: Mapping[str, object]) -> None:
    """Inside the simulation: merge JSON-able values into `RunResult.result`, kept for a failing run too."""
    path = Path(_bench_file()["result"])
    merged = {**_read(path), **result}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(merged))
    draft.replace(path)


def report_progress(value: Mapping[str, object]) -> None:
    """Inside the simulation: hand one JSON-able value to the `progress` function of the `run` call."""
    with Path(_bench_file()["progress"]).open("a") as target:
        target.write(json.dumps(dict(value)) + "\n")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
