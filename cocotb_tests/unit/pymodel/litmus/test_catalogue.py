"""Every litmus test: the correct protocol is clean, the broken twin is not; and the mechanism itself."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.litmus.explored import documented, explored, rows_of
from pymodel.effects import Agent, Load, Store, WaitFor
from pymodel.explore import Outcome
from pymodel.litmus import Scenario, UnknownLitmus, all_tests, explore, litmus
from pymodel.memory import SparseMem

WORD = 0x100


@pytest.mark.parametrize("id", list(all_tests()))
def test_correct_protocol_is_clean(id: str) -> None:
    """Nothing forbidden is reachable, and what has to be reachable is."""
    result = explored(id)
    assert result.runs
    for run in result.runs:
        assert run.forbidden == {}, f"{id} {run.case}: {next(iter(run.forbidden.values()), '')}"
        assert run.uncovered == ()
    assert result.as_expected


@pytest.mark.parametrize("id", list(all_tests()))
def test_broken_twin_is_caught(id: str) -> None:
    """Each variant of the twin reaches a forbidden outcome, and not because somebody waits forever."""
    result = explored(id, twin=True)
    assert result.runs
    assert result.as_expected
    for run in result.runs:
        for outcome, reason in run.forbidden.items():
            assert "waits forever" not in reason
            assert run.schedule(outcome)


@pytest.mark.parametrize("id", list(all_tests()))
def test_documented_counts_are_those_of_the_exploration(id: str) -> None:
    """The table of docs/litmus.md has a row for each variant; states and transitions are the same on every machine."""
    assert documented(id) == rows_of(id)


def test_ids_and_texts_are_complete() -> None:
    """Ids sort, belong to a family, and say in words what is forbidden and what the twin breaks."""
    tests = all_tests()
    assert list(tests) == sorted(tests)
    assert {"L01", "L02", "L03", "L07", "L09", "L10", "L11", "L42", "L43", "L44", "L45"} <= set(tests)
    for test in tests.values():
        assert test.family.startswith("pymodel.litmus.")
        assert all((test.seed, test.title, test.forbidden, test.twin))
    with pytest.raises(UnknownLitmus, match=r"must be one of L01, .*, not 'L99'"):
        explore("L99")


def one_writer(**options: Any) -> Scenario:
    def writer() -> Agent[None]:
        yield Store(WORD, 1)

    def reader() -> Agent[int]:
        value: int = yield Load(WORD)
        return value

    return Scenario({"writer": writer, "reader": reader}, SparseMem(), lambda outcome: "", **options)


def declare(build: Any) -> Any:
    return litmus(id="T1", seed="none", title="a test", forbidden="nothing", twin="nothing")(build)


def test_a_test_that_sees_nothing_is_not_as_expected(own_catalogue: None) -> None:
    """Missing coverage fails the correct protocol; a twin without a forbidden outcome fails too."""
    shows: Any = {"a seven": lambda outcome: outcome.values[1] == 7, "a one": lambda outcome: outcome.values[1] == 1}
    declare(lambda twin, case: one_writer(covers=shows))
    result = explore("T1")
    assert result.runs[0].uncovered == ("a seven",)
    assert not result.as_expected
    assert not explore("T1", twin=True).as_expected


def test_waiting_and_failing_agents_are_forbidden(own_catalogue: None) -> None:
    """A stuck agent and a failed assertion count against the correct protocol, not for the twin."""

    def stuck() -> Agent[None]:
        yield WaitFor(WORD, 1, 1)

    def failing() -> Agent[None]:
        value: int = yield Load(WORD)
        assert value, "no value"

    def clean(outcome: Outcome) -> str:
        return ""

    declare(lambda twin, case: Scenario({"s": stuck}, SparseMem(), clean))
    assert list(explore("T1").runs[0].forbidden.values()) == ["s waits forever"]
    assert not explore("T1", twin=True).as_expected
    declare(lambda twin, case: Scenario({"s": stuck}, SparseMem(), clean, servers=("s",)))
    assert explore("T1").as_expected
    declare(lambda twin, case: Scenario({"f": failing}, SparseMem(), clean))
    assert explore("T1").runs[0].forbidden != {}
    declare(lambda twin, case: one_writer(check=lambda state: "it is one" if state.memory.load(WORD) else ""))
    assert "it is one" in explore("T1").runs[0].forbidden.values()


def test_two_families_cannot_share_an_id(own_catalogue: None) -> None:
    """The second declaration is refused, with both places named."""
    with pytest.raises(ValueError, match=r"L01 is declared in pymodel\.litmus\.split and in"):
        litmus(id="L01", seed="", title="", forbidden="", twin="")(lambda twin, case: one_writer())
