"""A schedule as text: one column for each participant, one row for each step."""

from collections.abc import Sequence
from textwrap import wrap

from pymodel.explore.results import ScheduleStep

__all__ = ["diagram"]

_MIN, _GAP = 12, "  "


def _cell(step: ScheduleStep) -> list[str]:
    lines = [step.label]
    for event in step.events:
        details = " ".join(
            f"{name}={value:#x}" if type(value) is int else f"{name}={value}" for name, value in event.details
        )
        lines.append(f"* {event.name} {details}".rstrip())
    return lines


def _key(label: str) -> str:
    return label.split(" ", 1)[0]


def diagram(schedule: Sequence[ScheduleStep], participants: Sequence[str], *, width: int = 120, fold: int = 6) -> str:
    """The schedule, wrapped to `width` columns; more than `fold` equal kinds of step in a row are shortened.

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
        step = schedule[at]
        run = 1
        while (
            at + run < len(schedule)
            and schedule[at + run].who == step.who
            and _key(schedule[at + run].label) == _key(step.label)
            and not schedule[at + run - 1].events
        ):
            run += 1
        rows += _row(at + 1, used.index(step.who), _cell(step), column)
        if run > fold:
            rows += _row(None, used.index(step.who), [f"... {run - 2} more ..."], column)
            at += run - 1
            continue
        at += 1
    return "\n".join(rows)


def _row(number: int | None, index: int, cell: list[str], column: int) -> list[str]:
    lines = []
    for text in cell:
        lines += wrap(text, column, subsequent_indent="  ") or [""]
    indent = (column + len(_GAP)) * index
    first = "     " if number is None else f"{number:>4} "
    return [(first if position == 0 else "     ") + " " * indent + line for position, line in enumerate(lines)]
