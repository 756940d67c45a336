"""What a seeded defect is, and who may notice it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["BENCH", "CYCLE", "JUDGES_OF_A_RUN", "LEGAL", "MODES", "PROTOCOL", "Defect", "Judge", "judges"]

Judge = Literal["cycle", "legal", "protocol", "bench"]

CYCLE: Judge = "cycle"
LEGAL: Judge = "legal"
PROTOCOL: Judge = "protocol"
BENCH: Judge = "bench"
"""The bench itself, with all judges off: it hangs, or what software reads in a register or in memory is wrong."""

MODES: dict[Judge, tuple[str, ...]] = {
    CYCLE: ("cycle",), LEGAL: ("legal",), PROTOCOL: ("protocol",), BENCH: (),
}  # fmt: skip
"""Judges of the lock-step that are on in each of the four runs of a scenario."""

JUDGES_OF_A_RUN: dict[Judge, tuple[str, ...]] = {
    CYCLE: ("Mismatch",), LEGAL: ("JudgeError",), PROTOCOL: ("ProtocolError",),
}  # fmt: skip
"""Classes of complaints that are a judge's own; whatever ends the run without judges is the bench's."""


def judges(letters: str) -> frozenset[Judge]:
    """Judges by their initials: c, l, p, b."""
    names: dict[str, Judge] = {"c": CYCLE, "l": LEGAL, "p": PROTOCOL, "b": BENCH}
    return frozenset(names[letter] for letter in letters)


@dataclass(frozen=True)
class Defect:
    """A small change of one source file that makes the system wrong, or a checker blind."""

    name: str
    target: str
    """File, relative to the root of the project."""
    old: str
    """Text that stands in the file exactly once."""
    new: str
    what: str
    """One sentence."""
    scenario: str
    """Name in `scenarios.SCENARIOS`."""
    caught: frozenset[Judge]
    """Who notices it, each alone; exactly these."""
    weakens: str | None = None
    """Defect of the RTL that is seeded too: a blind checker shows by what it no longer notices there."""

    @property
    def package(self) -> str:
        """Top-level package that is mutated."""
        return self.target.split("/")[0]

    def apply(self, text: str) -> str:
        """The file's text with the defect; raises `ValueError` where `old` does not stand exactly once."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"defect {self.name}: old text must stand once in {self.target}, not {count} times")
        return text.replace(self.old, self.new)
