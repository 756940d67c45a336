"""Tables of `twodim bench`, and the same rows as JSON-able values."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cocotb_tests.bench.figures import PEER, PEER_INVALIDATION, ceiling, peer, peer_latency
from cocotb_tests.bench.task import Task

__all__ = ["invalidations", "throughput", "walks"]

Span = tuple[int, int]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _text(span: Sequence[int]) -> str:
    return str(span[0]) if span[0] == span[-1] else f"{span[0]}..{span[-1]}"


def throughput(console: Console, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Back-to-back workloads: ours, the peer's, the ceiling, the ratios."""
    table = _table(
        "Translations per 1000 cycles, back to back", "workload", "page", "L", "W", "lines", "ours", "peer",
        "ceiling", "/peer", "/ceiling", "reads/transl.", "reads/walk",
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    names = list(PEER)
    chosen = [task for task in tasks if task.job == "throughput"]
    chosen.sort(
        key=lambda task: (
            names.index(task.parameters["workload"]), task.parameters["pages"] == "2m", task.latency,
            task.params.walk_slots, -task.params.iotlb_entries,
        )
    )  # fmt: skip
    for task in chosen:
        figures, params = task.figures, task.params
        workload, pages, latency = task.parameters["workload"], task.parameters["pages"], task.latency
        ours = 1000 * figures["translations"] / figures["cycles"]
        theirs = peer(workload, pages, latency)
        reads, walks = figures["reads"] / figures["translations"], figures["walks"]
        limit = ceiling(reads, params, latency)
        per_walk = figures["reads"] / walks if walks else None
        rows.append(
            {"workload": workload, "pages": pages, "latency": latency, "slots": params.walk_slots,
             "iotlb_lines": params.iotlb_entries, "ours": ours, "peer": theirs, "ceiling": limit,
             "ours_to_peer": ours / theirs, "ours_to_ceiling": ours / limit, "reads_per_translation": reads,
             "reads_per_walk": per_walk, **figures}
        )  # fmt: skip
        table.add_row(
            workload, pages, str(latency), str(params.walk_slots), str(params.iotlb_entries), f"{ours:.1f}",
            f"{theirs:.2f}", f"{limit:.1f}", f"{ours / theirs:.1f}x", f"{ours / limit:.3f}", f"{reads:.3f}",
            f"{per_walk:.2f}" if per_walk else "-",
        )  # fmt: skip
    console.print(table)
    return rows


def walks(console: Console, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Requests alone: their line reads n and their latency against n(L+1)+3."""
    found: dict[tuple[str, int], dict[int, Span]] = {}

    def add(what: str, reads: int, latency: int, cycles: int) -> None:
        spans = found.setdefault((what, reads), {})
        low, high = spans.get(latency, (cycles, cycles))
        spans[latency] = min(low, cycles), max(high, cycles)

    for task in tasks:
        figures, latency = task.figures, task.latency
        if task.job == "isolated":
            what = f"{task.parameters['workload']} {task.parameters['pages'].upper()}"
            for reads, cycles in figures["walks"]:
                add(what, reads, latency, cycles)
        elif task.job == "depths":
            for cycles in figures["hits"]:
                add("hit", 0, latency, cycles)
            for kind, name in (("walks", "5 levels, context cached"), ("cold", "5 levels, nothing cached")):
                for level, reads, cycles in figures[kind]:
                    add(f"{name}, {('4K', '2M', '1G')[level]}", reads, latency, cycles)
    latencies = sorted({latency for spans in found.values() for latency in spans})
    table = _table(
        "One request alone: cycles from its first offer to its answer (bound n(L+1)+3)", "what", "reads n",
        *(f"L={latency}" for latency in latencies), "peer",
    )  # fmt: skip
    rows = []
    for (what, reads), spans in sorted(found.items()):
        cells = []
        for latency in latencies:
            bound = reads * (latency + 1) + 3
            span = spans.get(latency)
            cells.append("-" if span is None else f"{_text(span)} ({bound})")
            if span is not None:
                row = {"what": what, "reads": reads, "latency": latency, "cycles": span, "bound": bound}
                rows.append(row)
        table.add_row(what, str(reads), *cells, peer_latency(what))
    console.print(table)
    return rows


def invalidations(console: Console, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Invalidations before a wait with a status write, in silence and with walks in flight."""
    table = _table(
        "k invalidations and a wait: cycles to the status write on the port", "L", "W", "k",
        "walks in flight", "from descriptor arrival", "from doorbell",
    )  # fmt: skip
    rows = []
    chosen = [task for task in tasks if task.job == "invalidations"]
    for task in sorted(chosen, key=lambda t: (t.params.walk_slots, t.latency, t.parameters["walks"])):
        for count in (1, 2, 3):
            entries = [entry for entry in task.figures["invalidations"] if entry[0] == count]
            arrival, doorbell, flight = (sorted({entry[place] for entry in entries}) for place in (1, 2, 3))
            table.add_row(
                str(task.latency), str(task.params.walk_slots), str(count), _text(flight), _text(arrival),
                _text(doorbell),
            )  # fmt: skip
            rows.append(
                {"latency": task.latency, "slots": task.params.walk_slots, "invalidations": count,
                 "walks_in_flight": flight, "from_arrival": arrival, "from_doorbell": doorbell}
            )  # fmt: skip
    console.print(table)
    console.print(PEER_INVALIDATION + "\n")
    return rows
