"""Rules that hold for every file of the tree; each rule also catches a broken sample."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pymodel", "hdl", "cocotb_tests")
GENERATED = {"sim_build", "build", "out", "__pycache__", "twodim.egg-info"}
HIDDEN_BUT_OURS = {".ci", ".github", ".gitignore"}
TEXT = {
    "",
    ".py",
    ".toml",
    ".md",
    ".txt",
    ".json",
    ".yml",
    ".yaml",
    ".gtkw",
    ".ron",
    ".v",
    ".cfg",
    ".ini",
    ".svg",
}
# Directories in which a machine keeps what is its own; a path below one of them works on that machine only.
MACHINE_PATH = re.compile(r"(?<![\w.>\-}])/(?:home|root|tmp|opt|work|Users|mnt|srv)/[\w.]")
CLOCKS = {"monotonic", "perf_counter", "process_time", "elapsed", "elapsed_s"}


def ours(path: Path) -> bool:
    """Whether a path is source: neither generated nor a tool's cache."""
    parts = set(path.relative_to(ROOT).parts)
    return parts.isdisjoint(GENERATED) and not any(part[0] == "." for part in parts - HIDDEN_BUT_OURS)


def python_files(*packages: str) -> list[Path]:
    """Python files of `packages`, in the order of their paths."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py") if ours(path))


def text_files() -> Iterator[Path]:
    """Files that people read or that tools are configured by."""
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in TEXT and ours(path) and path.is_file():
            yield path


Finder = Callable[[str], list[str]]


def undocumented(source: str) -> list[str]:
    """Public classes and functions of a module, and public methods of public classes, without a docstring.

    `elaborate` has its contract in the class; stubs of a Protocol are documented by the Protocol.
    """
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name[0] == "_":
            continue
        if not ast.get_docstring(node):
            found.append(f"{node.lineno}: {node.name} has no docstring")
        if not isinstance(node, ast.ClassDef) or any("Protocol" in ast.unparse(base) for base in node.bases):
            continue
        for member in node.body:
            if (
                isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
                and member.name[0] != "_"
                and member.name != "elaborate"
                and not any(
                    "overload" in ast.unparse(mark) or ".setter" in ast.unparse(mark)
                    for mark in member.decorator_list
                )
                and not ast.get_docstring(member)
            ):
                found.append(f"{member.lineno}: {node.name}.{member.name} has no docstring")
    return found


def conditional_asserts(source: str) -> list[str]:
    """Asserts with `a if b else c` inside: precedence makes them true in one of the cases."""
    return [
        f"{node.lineno}: conditional expression in an assert"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert) and any(isinstance(part, ast.IfExp) for part in ast.walk(node.test))
    ]


def glob_imports(source: str) -> list[str]:
    """`from ... import *`, which blinds the linter to names that do not exist."""
    return [
        f"{node.lineno}: glob import of {node.module}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
    ]


def clock_asserts(source: str) -> list[str]:
    """Asserts on wall-clock time, and sleeping: both decide by the load of the machine."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            names = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
            names |= {part.attr for part in ast.walk(node.test) if isinstance(part, ast.Attribute)}
            found += [f"{node.lineno}: assert on {name}" for name in sorted(names & CLOCKS)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "time.sleep",
            "sleep",
            "asyncio.sleep",
        ):
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
    return found


def model_imports(source: str) -> list[str]:
    """Imports of `pymodel` other than `pymodel.spec`: the RTL must not take its behaviour from the model."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules: list[str] = []
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
            if node.module == "pymodel":
                modules = [f"pymodel.{name.name}" for name in node.names]
        for module in modules:
            if module.split(".")[0] == "pymodel" and module.split(".")[:2] != ["pymodel", "spec"]:
                found.append(f"{node.lineno}: imports {module}")
    return found


def machine_paths(source: str) -> list[str]:
    """Absolute paths of one machine."""
    return [
        f"{number}: {line.strip()[:80]}"
        for number, line in enumerate(source.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


def check(finder: Finder, paths: list[Path]) -> None:
    """Apply `finder` to every file and show all findings at once."""
    assert paths, "no file was found, so nothing was checked"
    found = [
        f"{path.relative_to(ROOT)}:{finding}"
        for path in paths
        for finding in finder(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == [], "\n" + "\n".join(found)


def test_public_names_have_docstrings() -> None:
    """Every public class and function of the model and of the RTL says what it is."""
    check(undocumented, python_files("pymodel", "hdl"))


def test_asserts_have_no_conditional_expression() -> None:
    """No assert is true by precedence."""
    check(conditional_asserts, python_files(*PACKAGES))


def test_imports_name_what_they_import() -> None:
    """There is no glob import, of amaranth or of anything else."""
    check(glob_imports, python_files(*PACKAGES))


def test_asserts_do_not_depend_on_time() -> None:
    """No test decides by wall-clock time."""
    check(clock_asserts, python_files("cocotb_tests"))


def test_hdl_imports_only_the_declarations() -> None:
    """Of the model, the RTL sees `pymodel.spec` only."""
    check(model_imports, python_files("hdl"))


def test_files_name_no_machine_path() -> None:
    """Everything works wherever the repository lies."""
    check(machine_paths, list(text_files()))


@pytest.mark.parametrize(
    ("finder", "broken", "sound"),
    [
        (undocumented, "def walk(): pass", 'def walk():\n    "Walk."'),
        (
            undocumented,
            'class A:\n    "A."\n    def b(self): pass',
            'class A:\n    "A."\n    def _b(self): pass',
        ),
        (undocumented, 'class A:\n    class B: pass\n    "A."', 'class A:\n    "A."\n    class B: pass'),
        (conditional_asserts, "assert x == 1 if y else 2", "z = 1 if y else 2\nassert x == z"),
        (glob_imports, "from amaranth.hdl import *", "from amaranth.hdl import Module"),
        (clock_asserts, "assert result.elapsed < 2", "assert result.cycles < 2"),
        (clock_asserts, "import time\ntime.sleep(1)", "import time\ntime.monotonic()"),
        (model_imports, "from pymodel.paging import walk", "from pymodel.spec.fields import Field"),
        (model_imports, "from pymodel import memory", "from pymodel import spec"),
        (machine_paths, "see " + "/".join(("", "home", "someone")), "see docs/timing.md and <root>/tmp/x"),
    ],
)
def test_rule_catches_a_broken_sample(finder: Finder, broken: str, sound: str) -> None:
    """A rule that finds nothing in its broken sample would hold vacuously."""
    assert len(finder(broken)) == 1
    assert finder(sound) == []
