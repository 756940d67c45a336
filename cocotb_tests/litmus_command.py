"""`twodim litmus list` and `twodim litmus explore`: the catalogue, and every outcome of its tests."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cocotb_tests.command import UserError, check_folder, write_whole
from pymodel.explore import Outcome, diagram
from pymodel.litmus import Litmus, LitmusResult, Run, all_tests, explore

__all__ = ["explore_litmus", "list_litmus"]

_WIDTH = 120
_MAX_SHOWN = 16


def _console() -> Console:
    """On a terminal as wide as it is, elsewhere of fixed width so that texts can be compared."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def list_litmus() -> int:
    """Print the catalogue."""
    table = Table("id", "seed", "title", "forbidden", "broken twin", title="Litmus tests", show_lines=True)
    for test in all_tests().values():
        table.add_row(*map(escape, (test.id, test.seed, test.title, test.forbidden, test.twin)))
    _console().print(table, markup=False)
    return 0


def _choose(ids: Iterable[str]) -> list[Litmus]:
    tests = all_tests()
    names = [name.upper() for name in ids]
    for name, given in zip(names, ids, strict=True):
        if name not in tests and name != "ALL":
            raise UserError(f"litmus id must be all or one of {', '.join(tests)}, not {given!r}")
    return [tests[name] for name in (tests if not names or "ALL" in names else dict.fromkeys(names))]


def explore_litmus(ids: Sequence[str] = (), twin: bool = False, json: Path | None = None) -> int:
    """Explore tests ("all", the default, or some) or their broken twins; 0 where all end as expected, else 1.

    One test is shown with its outcomes; several as a table, and with outcomes those that do not end as expected.
    Raises `UserError` for an unknown id and for a report that cannot be written, before anything is explored.
    """
    tests = _choose(ids)
    if json is not None:
        check_folder("--json", json.parent)
    console = _console()
    results = []
    for number, test in enumerate(tests, 1):
        if len(tests) > 1:
            print(f"litmus: {test.id}, {number} of {len(tests)}", file=sys.stderr, flush=True)
        results.append(explore(test.id, twin))
    if len(results) > 1:
        console.print(_overview(results))
    for result in results:
        if len(results) == 1 or not result.as_expected:
            _show(console, result)
    good = sum(result.as_expected for result in results)
    what = "twins reach what is forbidden" if twin else "tests reach nothing forbidden"
    console.print(f"{good} of {len(results)} {what}", markup=False, highlight=False)
    if json is not None:
        write_whole(json, _report(results, twin))
        console.print(f"report: {json}", markup=False, highlight=False, soft_wrap=True)
    return 0 if good == len(results) else 1


# --- for people ------------------------------------------------------------------------------------------------


def _overview(results: Iterable[LitmusResult]) -> Table:
    """A row for each test, and one for each of its variants with the counts."""
    table = Table("id", "test, variants", "outcomes", "forbidden", "states", "transitions", "s")
    for column in table.columns[2:]:
        column.justify = "right"
    for result in results:
        test = result.litmus
        verdict = "" if result.as_expected else "NOT AS EXPECTED: "
        table.add_row(test.id, escape(verdict + (f"twin: {test.twin}" if result.twin else test.title)))
        for run in result.runs:
            found = run.exploration
            table.add_row(
                "", escape(f"- {run.case}" if run.case else "-"), str(len(found.outcomes)), str(len(run.forbidden)),
                f"{found.states:,}", f"{found.transitions:,}", f"{found.seconds:.1f}",
            )  # fmt: skip
        table.add_section()
    return table


def _show(console: Console, result: LitmusResult) -> None:
    test = result.litmus

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"{test.id} [{test.seed}] {'twin: ' + test.twin if result.twin else test.title}")
    say(f"  forbidden: {test.forbidden}")
    for run in result.runs:
        found = run.exploration
        say(
            f"\n  {run.case + ': ' if run.case else ''}{len(found.outcomes)} outcomes, {len(run.forbidden)} forbidden; "
            f"{found.states:,} states, {found.transitions:,} transitions, {_many(found.schedules)} schedules, "
            f"{found.seconds:.1f} s"
        )
        if not result.twin:
            for name in run.uncovered:
                say(f"  no outcome shows: {name}")
        console.print(_outcomes(run))
        if run.forbidden:
            _draw(console, run)
    lines = [_describe(run, outcome) for run in result.runs for outcome in run.exploration.outcomes]
    shown = " ".join(text for one in lines for text in one)
    legend = {f"{value:#x}": text for run in result.runs for value, text in run.legend.items()}
    if used := [f"{value}: {text}" for value, text in legend.items() if re.search(rf"{value}\b", shown)]:
        say("\n  " + ", ".join(used))
    say(f"  {'as expected' if result.as_expected else 'NOT AS EXPECTED'}\n")


def _many(count: int) -> str:
    """In full as long as that can be read."""
    return f"{count:,}" if count < 10**9 else f"{Decimal(count):.1e}"


def _outcomes(run: Run) -> Table:
    """Forbidden ones first, the ones that are reached soonest before others."""
    table = Table("verdict", "what happened", "steps")
    ranked = sorted(run.exploration.outcomes.items(), key=lambda item: (item[0] not in run.forbidden, len(item[1])))
    for outcome, schedule in ranked[:_MAX_SHOWN]:
        verdict = f"FORBIDDEN: {run.forbidden[outcome]}" if outcome in run.forbidden else "allowed"
        table.add_row(escape(verdict), escape("\n".join(_describe(run, outcome))), str(len(schedule)))
    if len(ranked) > _MAX_SHOWN:
        table.add_row("", f"and {len(ranked) - _MAX_SHOWN} more", "")
    return table


def _describe(run: Run, outcome: Outcome) -> list[str]:
    lines = []
    for name, events in zip(run.exploration.participants, outcome.events, strict=False):
        if events:
            lines.append(f"{name}: " + ", ".join(_event(event.name, event.details) for event in events))
    if outcome.memory:
        lines.append("memory: " + ", ".join(f"{name} = {value:#x}" for name, value in outcome.memory))
    if outcome.stuck:
        lines.append("waiting: " + ", ".join(outcome.stuck))
    return lines or ["nothing to see"]


def _event(name: str, details: Sequence[tuple[str, Any]]) -> str:
    values = (f"{key}={value:#x}" if type(value) is int else f"{key}={value}" for key, value in details)
    return " ".join((name, *values))


def _draw(console: Console, run: Run) -> None:
    outcome = min(run.forbidden, key=lambda one: len(run.schedule(one)))
    console.print(f"  shortest schedule to: {run.forbidden[outcome]}", markup=False, highlight=False)
    text = diagram(run.schedule(outcome), run.exploration.participants, width=console.width)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


# --- for machines ----------------------------------------------------------------------------------------------


def _report(results: Iterable[LitmusResult], twin: bool) -> str:
    tests = []
    for result in results:
        runs = []
        for run in result.runs:
            outcomes = [
                {
                    "forbidden": run.forbidden.get(outcome, ""),
                    "events": _describe(run, outcome),
                    "memory": {name: hex(value) for name, value in outcome.memory},
                    "stuck": list(outcome.stuck),
                    "schedule": [[step.who, step.label] for step in schedule],
                }
                for outcome, schedule in run.exploration.outcomes.items()
            ]
            runs.append(
                {
                    "case": run.case,
                    "states": run.exploration.states,
                    "transitions": run.exploration.transitions,
                    "schedules": run.exploration.schedules,
                    "seconds": round(run.exploration.seconds, 3),
                    "uncovered": list(run.uncovered),
                    "outcomes": outcomes,
                }
            )
        tests.append(
            {
                "id": result.litmus.id,
                "seed": result.litmus.seed,
                "title": result.litmus.title,
                "forbidden": result.litmus.forbidden,
                "as_expected": result.as_expected,
                "runs": runs,
            }
        )
    return json.dumps({"twin": twin, "tests": tests}, indent=1) + "\n"
