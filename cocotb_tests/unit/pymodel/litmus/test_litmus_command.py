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
    with pytest.raises(UserError, match=r"^litmus id must be one of L01, .* not 'L99'$"):
        explore_litmus(["L01", "L99"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="--json"):
        explore_litmus(["L42"], json=blocked / "report.json")
