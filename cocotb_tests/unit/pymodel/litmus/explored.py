"""Explorations of the catalogue that several tests look at, each done once; and their rows in docs/litmus.md."""

from functools import cache
from pathlib import Path

from pymodel.litmus import LitmusResult, explore

PAGE = Path(__file__).parents[4] / "docs" / "litmus.md"


@cache
def _once(id: str, twin: bool) -> LitmusResult:
    return explore(id, twin)


def explored(id: str, twin: bool = False) -> LitmusResult:
    """Of a test as the catalogue has it."""
    return _once(id, twin)


def documented(id: str) -> list[str]:
    """Rows of the catalogue table of docs/litmus.md that belong to a test."""
    rows: list[str] = []
    for line in PAGE.read_text().partition("## Catalogue")[2].splitlines():
        if line.startswith(f"| {id} | ") or (rows and line.startswith("| | ")):
            rows.append(line)
        elif rows:
            break
    return rows


def rows_of(id: str) -> list[str]:
    """What `documented` has to say: states, transitions, outcomes and forbidden ones of every variant."""
    rows: list[str] = []
    for twin in (False, True):
        result = explored(id, twin)
        for run in result.runs:
            found = run.exploration
            first = f"| {id} | {result.litmus.title} |" if not rows else "| | |"
            variant = f"twin: {run.case or 'broken'}" if twin else run.case or "correct"
            counts = (found.states, found.transitions, len(found.outcomes), len(run.forbidden))
            rows.append(f"{first} {variant} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return rows
