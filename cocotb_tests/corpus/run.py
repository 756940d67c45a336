"""`twodim corpus`: recorded verdicts on random table images, held against the golden model and the RTL."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cocotb_tests.command import check_folder, command_line, write_whole
from cocotb_tests.corpus.golden import compare, outcomes, sequence
from cocotb_tests.corpus.rtl import groups, load_images, run_group
from cocotb_tests.harness import simulators
from cocotb_tests.harness.cosim import CosimFailed
from cocotb_tests.inputs.corpus import Header, Image, IotlbImage
from cocotb_tests.progress import Progress

__all__ = ["run"]

_SHOWN = 10
_WIDTH = 110


def run(
    files: Sequence[Path],
    *,
    rtl: bool = True,
    simulator: str = "verilator",
    limit: int | None = None,
    seed: int = 0,
    json_out: Path | None = None,
) -> int:
    """Check every file; 0 where nothing disagrees, else 1. Bad input raises before anything is simulated."""
    if rtl:
        simulators.require(simulator)
    if json_out is not None:
        check_folder("--json", json_out.parent)
    loaded = [(path, *load_images(path, limit)) for path in files]
    report: list[dict[str, Any]] = []
    for path, header, images in loaded:
        entry: dict[str, Any] = {
            "file": path.name,
            "format": header.format,
            "images": len(images),
            "requests": sum(len(image.requests) for image in images),
            "golden": _golden(header, images),
        }
        if rtl:
            entry["rtl"] = _rtl(path, header, images, simulator, seed, limit)
        report.append(entry)
    if json_out is not None:
        write_whole(
            json_out, json.dumps({"simulator": simulator if rtl else None, "files": report}, indent=1) + "\n"
        )
    _show(report, simulator if rtl else None)
    return int(any(entry["golden"]["count"] or entry.get("rtl", {}).get("bad") for entry in report))


def _golden(header: Header, images: Sequence[Image]) -> dict[str, Any]:
    started = time.monotonic()
    found: list[str] = []
    for image in images:
        if isinstance(image, IotlbImage):
            found += _sequence(header, image)
        else:
            found += map(str, compare(image, header, outcomes(header, image)))
    return {
        "count": len(found),
        "disagreements": found[:100],
        "seconds": round(time.monotonic() - started, 2),
    }


def _sequence(header: Header, image: IotlbImage) -> list[str]:
    """Outcomes that the golden model finds legal and the file does not allow."""
    legal = [sorted(outcomes) for outcomes in sequence(header, image)]
    found: dict[str, None] = {}
    for turn in range(max(map(len, legal), default=0)):
        results = [choices[min(turn, len(choices) - 1)] for choices in legal]
        found.update(dict.fromkeys(map(str, compare(image, header, results))))
    return list(found)


def _rtl(
    path: Path, header: Header, images: Sequence[Image], simulator: str, seed: int, limit: int | None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "count": 0,
        "disagreements": [],
        "failures": [],
        "requests": 0,
        "skipped": 0,
        "cycles": 0,
        "seconds": 0.0,
    }
    command = command_line("corpus", path, sim=simulator, limit=limit, seed=seed or None)
    total = sum(len(image.requests) for image in images)
    started = time.monotonic()
    with Progress(f"corpus {path.name}", total) as progress:
        for params, mine in groups(header, images).items():
            depths = "/".join(map(str, params.levels))
            progress.say(f"{len(mine)} images on {simulator} (haw {params.haw}, levels {depths})")
            try:
                summary = run_group(
                    path,
                    params,
                    simulator=simulator,
                    seed=seed,
                    limit=limit,
                    progress=progress.update,
                    command=command,
                )
            except CosimFailed as error:
                result["failures"].append(str(error))
                continue
            part = summary["corpus"]
            result["count"] += part["count"]
            result["disagreements"] += [_line(found) for found in part["disagreements"]]
            result["requests"] += part["requests"]
            result["skipped"] += part["skipped"]
            result["cycles"] += summary["cycles"]
    if not result["failures"] and result["requests"] != total:
        result["failures"].append(f"{result['requests']} of {total} requests were answered")
    result["seconds"] = round(time.monotonic() - started, 2)
    result["bad"] = bool(result["count"] or result["failures"])
    return result


def _line(found: dict[str, Any]) -> str:
    return (
        f"image {found['image']} request {found['request']} ({found['access']} {found['iova']}): "
        f"expected {found['expected']}, got {found['got']}"
    )


def _show(report: Sequence[dict[str, Any]], simulator: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if console.width < _WIDTH:
        console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    table = Table(
        title="corpora" + (f" on golden model and {simulator}" if simulator else " on the golden model"),
        title_justify="left",
    )
    headings = ["file", "images", "requests", "golden disagrees"]
    if simulator:
        headings += ["RTL disagrees", "cycles compared", "seconds"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "file" else "right", no_wrap=heading == "file")
    for entry in report:
        cells = [
            entry["file"],
            f"{entry['images']:,}",
            f"{entry['requests']:,}",
            f"{entry['golden']['count']:,}",
        ]
        if simulator:
            rtl = entry["rtl"]
            cells += [f"{rtl['count']:,}", f"{rtl['cycles']:,}", f"{rtl['seconds']}"]
        table.add_row(*cells)
    console.print(table)
    for entry in report:
        for who in ("golden", "rtl"):
            part = entry.get(who, {})
            for line in part.get("disagreements", [])[:_SHOWN]:
                console.print(Text(f"{entry['file']}, {who}: {line}", style="red"))
            for line in part.get("failures", []):
                console.print(Text(f"{entry['file']}, {who}: {line}", style="red"))
