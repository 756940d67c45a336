"""A schedule as text: one column for each participant, one row for each step."""

import re
from collections.abc import Sequence
from textwrap import wrap

from pymodel.explore.results import ScheduleStep

__all__ = ["diagram"]

_MIN, _GAP = 12, "  "
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


def _cell(step: ScheduleStep) -> list[str]:
    lines = [step.label]
    for event in step.events:
        details = " ".join(
            f"{name}={value:#x}" if type(value) is int else f"{name}={value}" for name, value in event.details
        )
        lines.append(f"* {event.name} {details}".rstrip())
    return lines


def _kind(step: ScheduleStep) -> tuple[str, str]:
    """Steps of one kind differ in numbers only."""
    return step.who, _NUMBERS.sub("#", step.label)


def _run(schedule: Sequence[ScheduleStep], at: int, period: int) -> int:
    """How many steps from `at` on repeat the kinds of the first `period`, with nothing said before the last."""
    count = 0
    for step in schedule[at:]:
        if step.who != schedule[at].who or _kind(step) != _kind(schedule[at + count % period]):
            break
        count += 1
        if step.events:
            break
    return count - count % period


def diagram(schedule: Sequence[ScheduleStep], participants: Sequence[str], *, width: int = 120, fold: int = 6) -> str:
    """The schedule, wrapped to `width` columns; more than `fold` steps of one or two kinds in turn are shortened.

    `*` marks what an agent says (its events).
    """
    used = [name for name in participants if any(step.who == name for step in schedule)]
    if not used:
        return "(nothing happens)"
    column = max(_MIN, (width - 5) // len(used) - len(_GAP))
    head = "".ljust(5) + _GAP.join(name.ljust(column) for name in used)
    rows = [head.rstrip(), "".ljust(5) + _GAP.join("-" * column for _ in used)]
    at = 0
    while at < len(schedule):
        index = used.index(schedule[at].who)
        period, run = max(((one, _run(schedule, at, one)) for one in (1, 2)), key=lambda found: found[1])
        hidden = range(at + period, at + run - period) if run > fold else range(0)
        shown = range(at, at + run) if hidden else range(at, at + 1)
        for number in shown:
            if number not in hidden:
                rows += _row(number + 1, index, _cell(schedule[number]), column)
            elif number == hidden.start:
                rows += _row(None, index, [f"... {len(hidden)} more ..."], column)
        at = shown.stop
    return "\n".join(rows)


def _row(number: int | None, index: int, cell: list[str], column: int) -> list[str]:
    lines = []
    for text in cell:
        lines += wrap(text, column, subsequent_indent="  ") or [""]
    indent = (column + len(_GAP)) * index
    first = "     " if number is None else f"{number:>4} "
    return [(first if position == 0 else "     ") + " " * indent + line for position, line in enumerate(lines)]
