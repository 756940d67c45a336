"""The catalogue against the tree: drift of the sources shows here at once, without a simulation."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from cocotb_tests.mutants.apply import PACKAGES, ROOT, mutated_tree
from cocotb_tests.mutants.catalogue import CATALOGUE, by_name, seeded
from cocotb_tests.mutants.defect import MODES, Defect
from cocotb_tests.mutants.scenarios import SCENARIOS
from cocotb_tests.mutants.stage import PARAMETERS
from cocotb_tests.mutants.table import DOCUMENT, render

DEFECTS = pytest.mark.parametrize("defect", CATALOGUE, ids=lambda defect: defect.name)


@DEFECTS
def test_old_text_stands_once_and_the_mutant_is_python(defect: Defect) -> None:
    """The source that the defect changes is still there; what comes out compiles and says something else."""
    text = (ROOT / defect.target).read_text(encoding="utf-8")
    mutant = defect.apply(text)
    assert ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(text))


@DEFECTS
def test_defect_is_complete(defect: Defect) -> None:
    """Its scenario exists; it is noticed, or makes less noticed of another one."""
    assert defect.scenario in SCENARIOS
    assert defect.package in PACKAGES
    assert defect.what.endswith(".")
    if defect.weakens is None:
        assert defect.caught, "nobody would notice it"
    else:
        hidden = by_name(defect.weakens)
        assert hidden.weakens is None
        assert hidden.scenario == defect.scenario
        assert defect.caught < hidden.caught, "it hides nothing"


def test_names_are_unique_and_every_judge_has_work() -> None:
    """Names are ids; each judge notices something that no other judge of the lock-step does, or the proof is thin."""
    assert max(Counter(defect.name for defect in CATALOGUE).values()) == 1
    for mode in MODES:
        assert sum(mode in defect.caught for defect in CATALOGUE) >= 5
    for judge in ("cycle", "legal", "protocol"):
        assert any(defect.caught - {"bench"} == {judge} for defect in CATALOGUE), f"only {judge}: none"


def test_every_scenario_is_used() -> None:
    """A scenario that no defect needs proves nothing; a parameter set neither."""
    used = {defect.scenario for defect in CATALOGUE}
    assert set(SCENARIOS) == used
    assert {SCENARIOS[name].params for name in used} == set(PARAMETERS)


def test_the_committed_table_is_the_catalogue() -> None:
    """docs/defects.md says what the catalogue says: names, sentences, files, scenarios and who notices."""
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert text == render({defect.name: defect.caught for defect in CATALOGUE}), (
        "run python -m cocotb_tests.mutants"
    )


def test_old_text_that_is_gone_or_doubled_is_an_error() -> None:
    """Drift cannot seed nothing."""
    defect = CATALOGUE[0]
    for text in ("", 2 * f"{defect.old}\n"):
        with pytest.raises(ValueError, match="must stand once"):
            defect.apply(text)


def test_mutated_tree_holds_the_mutant_and_leaves_the_project_alone() -> None:
    """Every mutated file is a copy, all others are the project's own."""
    defect = next(defect for defect in CATALOGUE if defect.weakens)
    before = {one.target: (ROOT / one.target).read_text(encoding="utf-8") for one in seeded(defect)}
    with mutated_tree(seeded(defect)) as folder:
        for one in seeded(defect):
            copy = folder / one.target
            assert not copy.is_symlink()
            assert copy.read_text(encoding="utf-8") == one.apply(before[one.target])
            sibling = copy.parent / "__init__.py"
            assert sibling.resolve() == (ROOT / Path(one.target).parent / "__init__.py").resolve()
    assert not folder.exists()
    assert before == {one.target: (ROOT / one.target).read_text(encoding="utf-8") for one in seeded(defect)}
