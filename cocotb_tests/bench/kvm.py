"""`twodim bench --kvm`: what faults and bulk population cost in the golden model of KVM's TDP MMU.

Faults go through the agents, one by one and lowest gfn first, as a guest that touches all of its memory makes them.
Seconds are of the processor, so that other work on the machine does not count.
"""

import json
import sys
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cocotb_tests.command import write_whole
from pymodel.kvm import roots, slot_ops
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, KvmEffect, run_kvm
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.populate import populate
from pymodel.kvm.spte import pages
from pymodel.kvm.version import V6_12
from pymodel.kvm.vm import Vcpu, Vm
from pymodel.memory import PhysMem

__all__ = ["DEFAULT", "LARGE", "QUICK", "Figures", "Plan", "Point", "bench_kvm", "by_faults", "in_bulk", "measure",
           "table_memory"]  # fmt: skip

_WIDTH = 100  # columns of the tables where the terminal is narrower
_WRITE = 1 << 32 | 6
"""Error code of a guest's write to an entry that is not present."""
_FIRST_PFN = 0x4000_0000 >> 12
_MIB, _GIB = 256, 1024
"""4K pages of a mebibyte, mebibytes of a gibibyte."""
_SILENT = 1 << 17
"""Faults after which to say that they go on."""
_SIZES = {1: "4K", 2: "2M", 3: "1G"}


@dataclass(frozen=True)
class Point:
    """One guest: its memory in MiB, and the level that the host maps it with (1: 4K, 2: 2M, 3: 1G)."""

    mib: int
    level: int

    def __str__(self) -> str:
        size = f"{self.mib} MiB" if self.mib % _GIB else f"{self.mib // _GIB} GiB"
        return f"{size} of {_SIZES[self.level]}"


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    faults: tuple[Point, ...]
    bulk: tuple[Point, ...]
    memory: tuple[Point, ...]
    """Bulk population whose memory is counted; slower than without."""


QUICK = Plan(
    (Point(2, 1), Point(8, 1), Point(64, 2), Point(4 * _GIB, 3)),
    (Point(8, 1), Point(64, 2)),
    (Point(8, 1), Point(16, 1)),
)
"""Less than a second."""
DEFAULT = Plan(
    (Point(256, 1), Point(_GIB, 1), Point(16 * _GIB, 2), Point(512 * _GIB, 3)),
    (Point(256, 1), Point(_GIB, 1), Point(16 * _GIB, 2), Point(64 * _GIB, 3)),
    (Point(64, 1), Point(256, 1)),
)
"""Some seconds."""
LARGE = Plan(
    (*DEFAULT.faults[:2], Point(4 * _GIB, 1), Point(16 * _GIB, 2), Point(64 * _GIB, 2), Point(512 * _GIB, 3),
     Point(1024 * _GIB, 3)),
    (*DEFAULT.bulk[:2], Point(4 * _GIB, 1), Point(16 * _GIB, 2), Point(64 * _GIB, 2), Point(64 * _GIB, 3)),
    (*DEFAULT.memory, Point(_GIB, 1)),
)  # fmt: skip
"""About half a minute."""


@dataclass(frozen=True)
class Figures:
    """One point, measured."""

    point: Point
    faults: int
    """Nested page faults that went through agents."""
    pages: int
    """Entries that were made: of the point's own size."""
    seconds: float
    """Of the processor."""
    tables: int
    """Table pages in the end."""

    @property
    def per_page(self) -> float:
        """Microseconds for each page."""
        return 1e6 * self.seconds / self.pages


class _Guest:
    """A VM whose memory is one slot at gfn 0; the host gives page n as frame `_FIRST_PFN` + n."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.npages = point.mib * _MIB
        frames = iter(range(1 << 36, 1 << 40))
        self.memory = PhysMem()
        self.vm = Vm(V6_12, self, lambda: next(frames), release=lambda frame: self.memory.clear_page(frame << 12))
        self.vm.traced = False
        self.vcpu = Vcpu(0)
        self.vm.vcpus.append(self.vcpu)
        self.run(slot_ops.create(self.vm, Memslot(0, 0, self.npages, 0, 0)))
        self.run(roots.prepare_entry(self.vm, self.vcpu))

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """See `pymodel.kvm.vm.Host`."""
        return self.point.level

    def run(self, agent: KvmAgent[Any]) -> Any:
        return run_kvm(agent, self.memory, self.handle)

    def handle(self, effect: KvmEffect) -> HostPage | None:
        return HostPage(_FIRST_PFN + (effect.hva >> 12), True) if isinstance(effect, HostFault) else None

    def measured(self, faults: int, seconds: float) -> Figures:
        """Raises `AssertionError` where memory holds anything but the table pages."""
        held, tables = len(list(self.memory.pages())), len(self.vm.tables)
        if held != tables:
            raise AssertionError(f"{self.point}: memory must hold the {tables} table pages alone, not {held} pages")
        return Figures(self.point, faults, self.npages // pages(self.point.level), seconds, tables)


def by_faults(point: Point) -> Figures:
    """Fault every page in, through the agents."""
    guest = _Guest(point)
    vm, vcpu, run = guest.vm, guest.vcpu, guest.run
    gfns = range(0, guest.npages, pages(point.level))
    quarter = max(_SILENT, len(gfns) // 4)
    began = time.process_time()
    for number, gfn in enumerate(gfns):
        run(page_fault(vm, vcpu, gfn << 12, _WRITE))
        if number and number % quarter == 0:
            _say(f"{point}: {number:,} of {len(gfns):,} faults")
    return guest.measured(len(gfns), time.process_time() - began)


def in_bulk(point: Point) -> Figures:
    """The same tables with `pymodel.kvm.populate`."""
    guest = _Guest(point)
    began = time.process_time()
    done = populate(guest.vm, guest.vcpu, guest.memory, guest.handle, 0, guest.npages)
    return guest.measured(done.faults, time.process_time() - began)


def table_memory(point: Point) -> tuple[int, int]:
    """(bytes of all Python objects and arrays of a populated guest, its table pages)."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        guest = _Guest(point)
        populate(guest.vm, guest.vcpu, guest.memory, guest.handle, 0, guest.npages)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, len(guest.vm.tables)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def bench_kvm(*, quick: bool = False, large: bool = False, json_out: Path | None = None) -> int:
    """The command: measure, print tables, write JSON. Returns 0; raises `UserError` where JSON cannot be written."""
    console = Console(highlight=False)
    if console.width < _WIDTH:
        console = Console(highlight=False, width=_WIDTH)
    report = measure(console, LARGE if large else QUICK if quick else DEFAULT)
    if json_out is not None:
        write_whole(json_out, json.dumps(report, indent=1) + "\n")
    return 0


def measure(console: Console, plan: Plan) -> dict[str, Any]:
    """Measure and print tables; the report for JSON."""
    report: dict[str, Any] = {}
    for key, title, run, points in (
        ("faults", "Faults through the agents of KVM's TDP MMU", by_faults, plan.faults),
        ("bulk", "The same tables in bulk", in_bulk, plan.bulk),
    ):
        found = []
        for point in points:
            _say(f"{key}: {point}")
            found.append(run(point))
        console.print(_figures(title, found))
        report[key] = [_row(one) for one in found]
    report["memory"] = []
    for point in plan.memory:
        _say(f"memory: {point}")
        size, tables = table_memory(point)
        report["memory"].append({**asdict(point), "tables": tables, "bytes": size, "bytes_per_table": size // tables})
    console.print(_memory(report["memory"]))
    return report


def _row(one: Figures) -> dict[str, Any]:
    return {
        **asdict(one.point), "faults": one.faults, "pages": one.pages, "seconds": one.seconds,
        "us_per_page": one.per_page, "tables": one.tables,
    }  # fmt: skip


def _figures(title: str, found: Sequence[Figures]) -> Table:
    """Rows with the cost of a page against that of the smallest guest with pages of that size, which is 1.00."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(("guest", "pages", "faults", "CPU s", "pages/s", "us/page", "ratio", "tables")):
        table.add_column(column, justify="right" if number else "left")
    first: dict[int, float] = {}
    for one in found:
        ratio = one.per_page / first.setdefault(one.point.level, one.per_page)
        table.add_row(
            str(one.point), f"{one.pages:,}", f"{one.faults:,}", f"{one.seconds:.2f}",
            f"{one.pages / one.seconds:,.0f}", f"{one.per_page:.2f}", f"{ratio:.2f}", f"{one.tables:,}",
        )  # fmt: skip
    return table


def _memory(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(title="Memory of a populated guest", title_justify="left")
    for number, column in enumerate(("guest", "tables", "KiB", "bytes/table")):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(
            str(Point(row["mib"], row["level"])), f"{row['tables']:,}", f"{row['bytes'] // 1024:,}",
            f"{row['bytes_per_table']:,}",
        )  # fmt: skip
    return table
