"""`twodim replay`: a recording of a real machine, replayed on the RTL under all three judges."""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cocotb_tests.command import UserError, check_folder, choose_params, command_line, write_whole
from cocotb_tests.harness import simulators
from cocotb_tests.harness.cosim import CosimFailed, build_bench, cosimulate
from cocotb_tests.harness.job import params_to_json
from cocotb_tests.inputs import vtd_events as ev
from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.vtd_trace import Doorbell, played, read_trace
from cocotb_tests.progress import Progress
from cocotb_tests.replay import report as reporting
from pymodel.spec.params import IommuParams

__all__ = ["JOB", "Survey", "replay", "survey"]

JOB = "cocotb_tests.replay.job:replay"


@dataclass(frozen=True)
class Survey:
    """What a recording holds, found while it is checked from the first line to the last."""

    header: ev.Header
    dmas: int
    """DMAs that the limit leaves."""
    requests: int
    """Translations and interrupt messages that will be asked for."""
    lines: int
    events: Counter[str]


def survey(path: Path, limit: int | None = None) -> Survey:
    """Read and check a whole recording; raises `InputError`."""
    header: ev.Header | None = None
    events: Counter[str] = Counter()
    dmas = requests = lines = 0
    for event in played(path, read_trace(path)):
        whole = (
            (event.write, *event.meanwhile, *event.descriptors) if isinstance(event, Doorbell) else (event,)
        )
        for one in whole:
            lines += 1
            events[one.ev] += 1
            if isinstance(one, ev.Header):
                header = one
            within = limit is None or dmas <= limit
            if isinstance(one, ev.Dma):
                dmas += 1
            elif isinstance(one, ev.Message) or (isinstance(one, ev.Translated) and not one.rpt):
                requests += within
    assert header is not None
    if not requests:
        raise InputError(path, None, "dma", "none with a translation", "at least one, or nothing is checked")
    return Survey(header, dmas if limit is None else min(dmas, limit), requests, lines, events)


def replay(
    path: Path,
    *,
    simulator: str = "verilator",
    waves: Literal["", "fst", "vcd"] = "",
    limit: int | None = None,
    latency: int = 20,
    jitter: int = 0,
    seed: int = 0,
    preset: str = "default",
    settings: Sequence[str] = (),
    out: Path = Path("out"),
    json_out: Path | None = None,
) -> int:
    """Replay, print the table, write the report; 0 where nothing disagrees, else 1. Raises for bad input."""
    params = choose_params(preset, settings)
    simulators.require(simulator)
    name = (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name.removesuffix(".gz").removesuffix(".jsonl")) or "recording"
    )
    folder = out / f"replay-{name}"
    check_folder("--out", folder)
    if json_out is not None:
        check_folder("--json", json_out.parent)
    dump = Path("waves") / f"replay-{name}-{simulator}.{waves}" if waves else None
    if dump is not None:
        check_folder("--waves", dump.parent)
    found = survey(path, limit)
    _check_depth(found.header, params)
    command = command_line(
        "replay",
        path,
        sim=simulator,
        limit=limit,
        seed=seed or None,
        params=preset if preset != "default" else None,
        set=list(settings),
        latency=latency if latency != 20 else None,
        jitter=jitter or None,
    )
    job = {"path": str(path.absolute()), "limit": limit, "latency": latency, "jitter": jitter}
    failure: str | None = None
    started = time.monotonic()
    with Progress(f"replay {name}", found.requests) as progress:
        progress.say(f"the bench for {simulator}")
        build = build_bench(simulator, params, waves or None)
        built = time.monotonic()
        try:
            result = cosimulate(
                simulator,
                params,
                JOB,
                seed=seed,
                job_parameters=job,
                waves=dump,
                replay=command,
                timeout_s=None,
                progress=progress.update,
                build=build,
            )
            summary = result.summary
        except CosimFailed as error:
            failure, summary = str(error), error.result
    report = _report(found, params, summary, failure)
    report["command"] = command
    report["simulator"], report["seed"] = simulator, seed
    report["memory"] = {"latency": latency, "jitter": jitter}
    report["seconds"] = {"build": round(built - started, 2), "simulation": round(time.monotonic() - built, 2)}
    report["recording"]["file"] = path.name
    report["waves"] = str(dump) if dump is not None and dump.exists() else None
    report["report"] = str(folder / "report.txt")
    text = json.dumps(report, indent=1) + "\n"
    write_whole(folder / "report.json", text)
    write_whole(folder / "report.txt", reporting.render(report))
    if json_out is not None:
        write_whole(json_out, text)
    reporting.show(report)
    return 0 if report["verdict"] == "passed" else 1


def _check_depth(header: ev.Header, params: IommuParams) -> None:
    depth = ev.WIDTHS[header.address_width]
    if depth not in params.levels:
        width = header.address_width
        raise UserError(f"--set: levels must include {depth} for {width}-bit recordings, not {params.levels}")


def _report(
    found: Survey, params: IommuParams, summary: dict[str, Any], failure: str | None
) -> dict[str, Any]:
    header = found.header
    played_ = summary.get("replay", {})
    statistics = summary.get("statistics", {})
    mismatches = played_.get("mismatch_count", 0)
    counts = {"dmas": 0, "requests": 0, **played_.get("counts", {})}
    complete = counts["dmas"] == found.dmas and counts.get("compared") == found.requests
    if failure is None and not mismatches and not complete:
        failure = (
            f"the replay is not complete: {counts['dmas']} of {found.dmas} DMAs, "
            f"{counts.get('compared', 0)} of {found.requests} answers"
        )
    return {
        "verdict": "failed" if failure or mismatches else "passed",
        "failure": failure,
        "judges": ["cycle", "legal", "protocol", "recording"],
        "recording": {
            "name": header.name,
            "kernel": header.kernel,
            "unit": header.qemu,
            "options": header.iommu,
            "cap": hex(header.cap),
            "ecap": hex(header.ecap),
            "address_width": header.address_width,
            "lines": found.lines,
            "events": dict(found.events),
        },
        "iommu": {
            "params": params_to_json(params),
            "cap": hex(params.cap),
            "ecap": hex(params.ecap),
            "differences": reporting.capability_differences(header, params),
        },
        "counts": counts,
        "ignored_register_writes": played_.get("ignored", {}),
        "phases": played_.get("phases", []),
        "mismatches": mismatches,
        "first_mismatches": played_.get("mismatches", []),
        "cycles": summary.get("cycles", summary.get("cycle", 0)),
        "cycles_per_second": summary.get("cycles_per_second", 0),
        "statistics": statistics,
    }
