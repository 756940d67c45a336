"""Documentation stays true: Python examples run, named files and commands exist."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cocotb_tests.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path, own_catalogue: None) -> None:
    """Every Python block of the page runs, in order, in one namespace."""
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in _blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    """Every relative link, and every path in code marks that names a folder of the project, exists."""
    text = page.read_text()
    named = {page.parent / link for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    folders = "pymodel|hdl|cocotb_tests|docs|waves"
    named |= {ROOT / path for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text)}
    missing = sorted(str(path.relative_to(ROOT)) for path in named if not path.resolve().exists())
    assert not missing, f"{page.name} names {missing}"


def test_readme_names_commands_that_exist() -> None:
    """Every `twodim` command of the README is one of the command line's."""
    helped = subprocess.run(
        [sys.executable, "-m", "cocotb_tests.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"twodim ([a-z]+)", (ROOT / "README.md").read_text()))
    assert commands, "the README shows no command"
    missing = [command for command in sorted(commands) if command not in helped]
    assert not missing, f"not in twodim --help: {missing}"


def _shown(page: Path) -> list[tuple[list[str], list[str]]]:
    """What a page shows of the command line: the words after `twodim`, and the options named on the same line."""
    found = []
    for line in page.read_text().splitlines():
        options = re.findall(r"--[a-z][a-z-]*", line)
        found += [(shown.split(), options) for shown in re.findall(r"`twodim ([^`]*)`", line)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_and_options_exist(page: Path) -> None:
    """Every command in code marks exists, and an option on its line is one of the commands on that line."""
    for words, options in _shown(page):
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, f"{page.name}: twodim has no command {name}"
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert set(options) <= known, f"{page.name}: `twodim {command.name}` has no {sorted(set(options) - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_make_targets_exist(page: Path) -> None:
    """Every target of `make` in code marks is one of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`make ([a-z]+)", page.read_text())) <= targets


def test_timing_rules_are_numbered_once() -> None:
    """Every rule of the contract has one number."""
    rules = re.findall(r"^- \*\*([A-Z]\d+)\*\*", (ROOT / "docs" / "timing.md").read_text(), flags=re.M)
    assert len(rules) == len(set(rules)) > 40, rules
