"""docs/defects.md: the catalogue as a table."""

from collections.abc import Mapping
from pathlib import Path

from cocotb_tests.mutants.apply import ROOT
from cocotb_tests.mutants.catalogue import CATALOGUE
from cocotb_tests.mutants.defect import MODES, Defect, Judge

__all__ = ["DOCUMENT", "render", "static_columns"]

DOCUMENT = Path("docs") / "defects.md"
"""The table, relative to the root of the project."""

_TITLES: Mapping[Judge, str] = {"cycle": "cycle", "legal": "legal", "protocol": "protocol", "bench": "bench"}

_INTRODUCTION = """# Seeded defects

Every judge of the co-simulation has to notice what it is there to notice. Each line below is a small change of one
source file. `cocotb_tests/mutants` applies it to a copy of the system, runs a short directed scenario on that copy in
Icarus with one judge on at a time, and with none, and compares who complains with this table, exactly: a judge that
becomes weaker is noticed as well as one that becomes stronger. On the system as it is all scenarios are clean.

- **cycle**: the packed observation differs from the cycle model's. **legal**: an answer, a status write or the fault
  log is none that the architecture allows. **protocol**: a numbered rule of the ports is broken.
- **bench**: with all judges off the run does not end, or what software reads in registers or memory is wrong.
- *with NAME*: the defect makes a judge or checker blind. It is seeded together with the RTL defect NAME, and shows by
  what is no longer noticed there.

`python -m cocotb_tests.mutants` runs all of it and writes this file; `python -m cocotb_tests.mutants NAME` runs one
defect and shows what each judge said.
"""


def static_columns(defect: Defect) -> str:
    """Name, sentence, file and scenario of one line."""
    blind = f" (*with {defect.weakens}*)" if defect.weakens else ""
    return f"| {defect.name} | {defect.what}{blind} | `{defect.target}` | {defect.scenario} |"


def render(caught: Mapping[str, frozenset[Judge]]) -> str:
    """The document; `caught` says by name who noticed each defect."""
    titles = " | ".join(_TITLES[judge] for judge in MODES)
    lines = [
        _INTRODUCTION,
        f"{len(CATALOGUE)} defects. Caught by judge, each alone: "
        + ", ".join(f"{judge} {sum(judge in found for found in caught.values())}" for judge in MODES) + ".",
        "",
        f"| defect | what | file | scenario | {titles} |",
        "|---|---|---|---|" + "---|" * len(MODES),
    ]
    for defect in CATALOGUE:
        marks = " | ".join("x" if judge in caught[defect.name] else "" for judge in MODES)
        lines.append(f"{static_columns(defect)} {marks} |")
    return "\n".join(lines) + "\n"


def write(caught: Mapping[str, frozenset[Judge]]) -> None:
    """Replace the document."""
    (ROOT / DOCUMENT).write_text(render(caught), encoding="utf-8")
