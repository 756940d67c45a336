"""All seeded defects."""

from cocotb_tests.mutants import defects_invalidation, defects_models, defects_registers, defects_translation
from cocotb_tests.mutants.defect import Defect

__all__ = ["CATALOGUE", "by_name", "seeded"]

CATALOGUE: tuple[Defect, ...] = (
    *defects_invalidation.DEFECTS,
    *defects_translation.DEFECTS,
    *defects_registers.DEFECTS,
    *defects_models.DEFECTS,
)
"""In the order of the table in docs/defects.md."""


def by_name(name: str) -> Defect:
    """The defect of that name; raises `KeyError`."""
    for defect in CATALOGUE:
        if defect.name == name:
            return defect
    raise KeyError(f"no defect is called {name!r}")


def seeded(defect: Defect) -> tuple[Defect, ...]:
    """What is seeded to see `defect`: itself, and the one that it hides."""
    return (defect,) if defect.weakens is None else (defect, by_name(defect.weakens))
