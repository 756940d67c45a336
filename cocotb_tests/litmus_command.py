"""`twodim litmus list` and `twodim litmus explore`: the catalogue, and every outcome of its tests."""

import json
import sys
from collections.abc import Iterable, Sequence
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
    chosen = {}
    for name in ids:
        if name.upper() not in tests:
            raise UserError(f"litmus id must be one of {', '.join(tests)}, not {name!r}")
        chosen[name.upper()] = tests[name.upper()]
    return list((chosen or tests).values())


def explore_litmus(ids: Sequence[str] = (), twin: bool = False, json: Path | None = None) -> int:
    """Explore tests (default: all) or their broken twins; 0 where all end as expected, else 1.

    Raises `UserError` for an unknown id and for a report that cannot be written, before anything is explored.
    """
    tests = _choose(ids)
    if json is not None:
        check_folder("--json", json.parent)
    console = _console()
    results = []
    for test in tests:
        result = explore(test.id, twin)
        results.append(result)
        _show(console, result, brief=len(tests) > 1)
    good = sum(result.as_expected for result in results)
    what = "twins reach what is forbidden" if twin else "tests reach nothing forbidden"
    console.print(f"{good} of {len(results)} {what}", markup=False, highlight=False)
    if json is not None:
        write_whole(json, _report(results, twin))
        console.print(f"report: {json}", markup=False, highlight=False, soft_wrap=True)
    return 0 if good == len(results) else 1


# --- for people ------------------------------------------------------------------------------------------------


def _show(console: Console, result: LitmusResult, brief: bool) -> None:
    test = result.litmus
    verdict = "as expected" if result.as_expected else "NOT AS EXPECTED"
    kind = "twin: " + test.twin if result.twin else test.title
    console.print(f"{test.id} [{test.seed}] {kind}", markup=False, highlight=False)
    console.print(f"  forbidden: {test.forbidden}", markup=False, highlight=False)
    for run in result.runs:
        found = run.exploration
        console.print(
            f"  {run.case + ': ' if run.case else ''}{len(found.outcomes)} outcomes, {len(run.forbidden)} forbidden; "
            f"{found.states:,} states, {found.transitions:,} transitions, {found.schedules:,} schedules, "
            f"{found.seconds:.1f} s",
            markup=False,
            highlight=False,
        )
        for name in run.uncovered:
            console.print(f"  no outcome shows: {name}", markup=False, highlight=False)
        if not brief:
            console.print(_outcomes(run))
        if run.forbidden and not (brief and result.as_expected):
            _draw(console, run)
    console.print(f"  {verdict}\n", markup=False, highlight=False)


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
