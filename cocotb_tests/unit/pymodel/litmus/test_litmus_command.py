"""`twodim litmus`: texts, reports and exit statuses."""

import json
from pathlib import Path

import pytest

from cocotb_tests.command import UserError
from cocotb_tests.litmus_command import explore_litmus, list_litmus
from pymodel.litmus import all_tests
from pymodel.litmus.catalogue import _REGISTRY


def test_list_names_every_test(capsys: pytest.CaptureFixture[str]) -> None:
    """All ids, once each."""
    assert list_litmus() == 0
    text = capsys.readouterr().out
    assert all(text.count(f" {id} ") == 1 for id in all_tests())


def test_explore_shows_outcomes_and_the_schedule_of_a_twin(capsys: pytest.CaptureFixture[str]) -> None:
    """A twin shows its forbidden outcome as a diagram, a correct protocol shows none; both exit 0."""
    assert explore_litmus(["l42"], twin=True) == 0
    text = capsys.readouterr().out
    assert "FORBIDDEN" in text
    assert "shortest schedule to: the access after the mapping was refused" in text
    assert "refused: cached not-present" in text
    assert "1 of 1 twins reach what is forbidden" in text
    assert explore_litmus(["L42", "L42"]) == 0
    text = capsys.readouterr().out
    assert "FORBIDDEN" not in text
    assert "shortest schedule" not in text
    assert "1 of 1 tests reach nothing forbidden" in text


def test_several_tests_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A row with counts for each variant, progress on standard error, no outcomes."""
    assert explore_litmus(["L42", "L43", "l42"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["litmus: L42, 1 of 2", "litmus: L43, 2 of 2"]
    rows = {cells[2]: cells[3:7] for line in shown.out.splitlines() if len(cells := line.split("│")) > 7}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert rows["- not-present never cached, not invalidated"] == ["2", "0", "26", "30"]
    assert rows["- walked again for rights (K6)"] == ["1", "0", "22", "25"]
    assert "what happened" not in shown.out
    assert "2 of 2 tests reach nothing forbidden" in shown.out


def test_all_stands_for_the_catalogue(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So does no id at all; beside other ids it adds the rest."""
    few = {id: all_tests()[id] for id in ("L42", "L43")}
    monkeypatch.setattr("cocotb_tests.litmus_command.all_tests", lambda: few)
    for ids in ([], ["all"], ["ALL"], ["L43", "all"]):
        assert explore_litmus(ids) == 0
        assert "2 of 2 tests" in capsys.readouterr().out


def test_values_of_outcomes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Entries and pages have names in schedules, values that occur a legend; a count too long to read is rounded."""
    assert explore_litmus(["L12"], twin=True) == 0
    text = capsys.readouterr().out
    assert "empty -> page A+3 rwx A D" in text
    assert "  0xda7a: page A's data\n" in text
    assert explore_litmus(["L14"]) == 0
    assert "3.2e+10 schedules" in capsys.readouterr().out


def test_unexpected_result_exits_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct protocol that reaches something forbidden fails, and shows how."""
    from dataclasses import replace

    broken = all_tests()["L42"]
    monkeypatch.setitem(_REGISTRY, "L42", replace(broken, build=lambda twin, case: broken.build(True, broken.twins[0])))
    assert explore_litmus(["L42"]) == 1
    text = capsys.readouterr().out
    assert "NOT AS EXPECTED" in text
    assert "shortest schedule" in text
    assert "0 of 1 tests reach nothing forbidden" in text
    assert explore_litmus(["L42", "L43"]) == 1
    text = capsys.readouterr().out
    assert text.count("NOT AS EXPECTED") == 2, "in the table, and below its outcomes"
    assert text.count("shortest schedule") == len(broken.cases)
    assert "1 of 2 tests reach nothing forbidden" in text


def test_json_report_holds_every_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outcomes with their schedules, and the counts."""
    target = tmp_path / "new" / "litmus.json"
    assert explore_litmus(["L42", "L43"], twin=True, json=target) == 0
    report = json.loads(target.read_text())
    assert report["twin"] is True
    assert [test["id"] for test in report["tests"]] == ["L42", "L43"]
    for test in report["tests"]:
        assert test["as_expected"]
        for run in test["runs"]:
            assert run["states"] > 0
            assert any(outcome["forbidden"] for outcome in run["outcomes"])
            assert all(outcome["schedule"] for outcome in run["outcomes"])


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """An unknown id and a report that cannot be written are refused before anything is explored."""
    with pytest.raises(UserError, match=r"^litmus id must be all or one of L01, .* not 'L99'$"):
        explore_litmus(["L01", "L99"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="--json"):
        explore_litmus(["L42"], json=blocked / "report.json")
