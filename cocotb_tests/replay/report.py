"""The report of a replay: a table for people, and what differs between the recorded unit and this IOMMU."""

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cocotb_tests.inputs.vtd_events import Header
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import CAP, ECAP

__all__ = ["capability_differences", "render", "show"]

_SHOWN = 10


def capability_differences(header: Header, params: IommuParams) -> list[dict[str, Any]]:
    """Fields of CAP and ECAP that the recorded unit and this IOMMU hold differently."""
    found = []
    for fmt, recorded, ours in ((CAP, header.cap, params.cap), (ECAP, header.ecap, params.ecap)):
        for field in fmt:
            theirs, mine = fmt.get(recorded, field.name), fmt.get(ours, field.name)
            if theirs != mine:
                found.append(
                    {
                        "field": f"{fmt.name}.{field.name.upper()}",
                        "recorded": hex(theirs),
                        "here": hex(mine),
                        "meaning": field.doc,
                    }
                )
        if recorded & fmt.reserved:
            found.append(
                {
                    "field": f"{fmt.name}, other bits",
                    "recorded": hex(recorded & fmt.reserved),
                    "here": "0x0",
                    "meaning": "features that are not built",
                }
            )
    return found


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    counts, statistics = report["counts"], report["statistics"]
    latency = statistics.get("latency", {})
    passing = "  ".join(f"{name} {latency.get(name, 0):,}" for name in ("p50", "p90", "p99", "max"))

    def count(name: str, source: dict[str, Any] = statistics) -> str:
        return f"{source.get(name, 0):,}"

    checked = count("fault_records_checked", counts)
    rows = [
        ("DMAs", count("dmas", counts)),
        ("translations", f"{count('requests', counts)}, and {count('messages', counts)} interrupt messages"),
        ("  hits", f"{count('hits')} (the recorded unit: {count('recorded_hits', counts)})"),
        ("  merges", count("merges")),
        ("  walks", count("walks")),
        ("line reads", count("line_reads")),
        ("table stores", f"{count('stores', counts)}, and {count('pages', counts)} whole pages"),
        ("invalidations", count("invalidations", counts)),
        ("waits", count("waits", counts)),
        ("faults", f"{count('faults', counts)}; {checked} fault records read back and compared"),
        ("cycles compared", count("cycles_compared")),
        ("mismatches", f"{report['mismatches']:,}"),
        ("translation latency", f"{passing} cycles"),
        ("checked cycles", f"{report['cycles_per_second']:,} a CPU second"),
    ]
    ignored = report["ignored_register_writes"]
    mapped = counts.get("mapped_register_writes", 0)
    left_out = ", ".join(f"{name} x{times}" for name, times in ignored.items()) or "none"
    moved = f"{mapped:,} to fault records, moved to where they are here; " if mapped else ""
    rows.append(("register writes", f"{count('register_writes', counts)} played; {moved}ignored: {left_out}"))
    if counts.get("repeated"):
        rows.append(("repeated look-ups", f"{count('repeated', counts)} of the recorded unit, left out"))
    if report["waves"]:
        rows.append(("waves", report["waves"]))
    rows.append(("report", report["report"]))
    return rows


def _print(console: Console, report: dict[str, Any], full: bool) -> None:
    recording = report["recording"]
    table = Table(
        title=f"replay of {recording['file']} on {report['simulator']}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        style = "red" if name == "mismatches" and report["mismatches"] else ""
        table.add_row(name, Text(value, style=style))
    console.print(table)
    if full:
        console.print(Text(f"recorded: {recording['kernel']}; {recording['unit']}; {recording['options']}"))
        console.print(Text(f"repeat: {report['command']}"))
        differences = Table(title="capabilities of the recorded unit and here", title_justify="left")
        for heading in ("field", "recorded", "here", "meaning"):
            differences.add_column(heading)
        for line in report["iommu"]["differences"]:
            differences.add_row(*(Text(line[key]) for key in ("field", "recorded", "here", "meaning")))
        console.print(differences)
    else:
        number = len(report["iommu"]["differences"])
        console.print(
            Text(f"{number} capability fields differ from those of the recorded unit; see the report.")
        )
    for line in report["first_mismatches"][: None if full else _SHOWN]:
        where = f"line {line['line']}: " if line["line"] is not None else ""
        dma = f", DMA {line['dma']}" if line["dma"] else ""
        cycle = f", cycle {line['cycle']}" if line["cycle"] is not None else ""
        text = f"{where}{line['what']}{dma}{cycle}: expected {line['expected']}, got {line['got']}"
        console.print(Text(text, style="red"))
    if report["failure"]:
        console.print(Text(report["failure"], style="red"))
    if report["verdict"] == "passed":
        console.print(
            Text("passed: every translation equals the recorded one, no judge objects", style="green")
        )
    else:
        console.print(Text(f"failed; repeat with: {report['command']}", style="red"))


def render(report: dict[str, Any]) -> str:
    """The whole report as plain text."""
    buffer = StringIO()
    _print(Console(file=buffer, width=118, color_system=None), report, full=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def show(report: dict[str, Any]) -> None:
    """The table and the verdict on standard output."""
    _print(Console(highlight=False, soft_wrap=False), report, full=False)
