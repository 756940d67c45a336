"""`twodim bench --kvm`: what is counted, not how long it takes."""

import json
from pathlib import Path

import pytest

from cocotb_tests.bench import kvm
from cocotb_tests.bench.kvm import DEFAULT, LARGE, QUICK, Plan, Point, by_faults, in_bulk, table_memory
from cocotb_tests.cli import run
from pymodel.kvm.populate import populate as real_populate


@pytest.mark.parametrize(
    ("point", "pages", "tables"),
    [(Point(8, 1), 2048, 1 + 1 + 1 + 4), (Point(64, 2), 32, 1 + 1 + 1), (Point(4096, 3), 4, 1 + 1)],
    ids=str,
)
def test_both_ways_make_every_page_and_the_same_tables(point: Point, pages: int, tables: int) -> None:
    """One agent for each page, or in bulk one for each table of 4K entries and each huge page."""
    one, bulk = by_faults(point), in_bulk(point)
    assert (one.pages, one.faults, one.tables) == (pages, pages, tables)
    assert (bulk.pages, bulk.tables) == (pages, tables)
    expected = 4 if point.level == 1 else pages
    assert bulk.faults == expected


def test_memory_is_the_tables_and_little_else() -> None:
    """4096 bytes of entries a table and less than a quarter of that around it, however large the guest."""
    for mib, tables in ((64, 35), (128, 67)):
        size, found = table_memory(Point(mib, 1))
        assert found == tables
        assert 4096 * tables < size < 5120 * tables


def test_pages_beside_the_tables_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose memory holds more than tables does not give figures."""

    def stray(*arguments: object) -> object:
        done = real_populate(*arguments)  # type: ignore[arg-type]
        arguments[2].store(0x5000, 1)  # type: ignore[attr-defined]
        return done

    monkeypatch.setattr(kvm, "populate", stray)
    with pytest.raises(AssertionError, match="8 MiB of 4K: memory must hold the 7 table pages alone, not 8 pages"):
        in_bulk(Point(8, 1))


def test_command_prints_and_reports_all_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables on standard output, progress on standard error, all of it as JSON."""
    target = tmp_path / "new" / "kvm.json"
    assert run(["bench", "--kvm", "--quick", "--json", str(target)]) == 0
    shown = capsys.readouterr()
    for point in (*QUICK.faults, *QUICK.bulk, *QUICK.memory):
        assert str(point) in shown.out
    assert shown.err.count("bench: ") == len(QUICK.faults) + len(QUICK.bulk) + len(QUICK.memory)
    report = json.loads(target.read_text())
    assert [(row["mib"], row["level"]) for row in report["faults"]] == [(one.mib, one.level) for one in QUICK.faults]
    assert [row["tables"] for row in report["bulk"]] == [7, 3]
    assert [row["tables"] for row in report["memory"]] == [7, 11]


def test_large_plan_holds_the_sizes_that_are_asked_about() -> None:
    """256 MiB, 1 GiB and 4 GiB of 4K; 64 GiB of 2M and of 1G in bulk. The default has nothing above 1 GiB of 4K."""

    def small(plan: Plan) -> list[int]:
        return [one.mib for one in plan.faults if one.level == 1]

    assert small(LARGE) == [256, 1024, 4096]
    assert {Point(64 << 10, 2), Point(64 << 10, 3), Point(4096, 1)} <= set(LARGE.bulk)
    assert max(small(DEFAULT)) == 1024


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--large"], "--large must be given with --kvm"),
        (["--kvm", "--large", "--quick"], "--large must be given without --quick"),
        (["--kvm", "--sim-speed"], "--kvm must be given without --sim-speed"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *options]) == 2
    assert capsys.readouterr().err == f"twodim: {text}\n"
