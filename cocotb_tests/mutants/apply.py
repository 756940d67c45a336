"""Runs a scenario on a system with seeded defects, in a tree of its own: the project is never touched.

The tree is a temporary folder with links to the packages; folders on the way to a mutated file are real and hold links
to everything else. A child process whose first import path is that folder emits the Verilog, compiles it for Icarus and
simulates it, so that RTL, models and harness are all mutated the same way.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cocotb_tests.harness.compilers import BUILD_VARIABLE
from cocotb_tests.mutants.defect import BENCH, JUDGES_OF_A_RUN, MODES, Defect, Judge
from cocotb_tests.mutants.scenarios import SCENARIOS

__all__ = ["PACKAGES", "ROOT", "MutantFailed", "Verdicts", "clean", "judge", "mutated_tree"]

ROOT = Path(__file__).resolve().parents[2]
"""Root of the project."""
PACKAGES = ("pymodel", "hdl", "cocotb_tests")
_SHARE = 6  # scenarios of one child on the system as it is
_TIMEOUT = 600  # seconds of one child; a scenario takes a few


class MutantFailed(RuntimeError):
    """The mutated system could not be built or run: the defect says nothing about the judges."""


@dataclass(frozen=True)
class Verdicts:
    """What the four runs of a scenario said."""

    kinds: dict[Judge, str]
    """Class of the complaint, "" for none, by the only judge that was on (`bench`: none was)."""
    texts: dict[Judge, str]
    cycles: int
    """Cycles of the run without judges."""

    @property
    def caught(self) -> frozenset[Judge]:
        """Who noticed something."""
        found = {judge for judge, own in JUDGES_OF_A_RUN.items() if self.kinds[judge] in own}
        if self.kinds[BENCH]:
            found.add(BENCH)
        return frozenset(found)

    def explain(self) -> str:
        """One line for each run."""
        return "\n".join(
            f"  {judge} alone: {kind + ': ' + self.texts[judge][:300] if kind else 'nothing'}"
            for judge, kind in self.kinds.items()
        )


@contextmanager
def mutated_tree(defects: Sequence[Defect]) -> Iterator[Path]:
    """A temporary folder with the packages, mutated; removed at the end. `ValueError` as of `Defect.apply`."""
    with tempfile.TemporaryDirectory(prefix="twodim-mutant-") as name:
        folder = Path(name)
        for package in PACKAGES:
            (folder / package).symlink_to(ROOT / package, target_is_directory=True)
        for defect in defects:
            path = _make_real(folder, Path(defect.target))
            text = path.read_text(encoding="utf-8")
            path.unlink()
            path.write_text(defect.apply(text), encoding="utf-8")
        yield folder


def _make_real(folder: Path, target: Path) -> Path:
    """Turn the folders on the way to `target` from links into real ones; returns the file's path."""
    place = folder
    for part in target.parts[:-1]:
        place /= part
        if place.is_symlink():
            source = place.resolve()
            place.unlink()
            place.mkdir()
            for child in source.iterdir():
                if child.name != "__pycache__":
                    (place / child.name).symlink_to(child)
    return place / target.name


def judge(scenario: str, defects: Sequence[Defect] = ()) -> Verdicts:
    """Run `scenario` with `defects` seeded, under each judge alone; raises `MutantFailed`, `ValueError`."""
    return _child([scenario], defects)[scenario]


def clean() -> dict[str, Verdicts]:
    """All scenarios on the system as it is, several in a child; raises `MutantFailed`."""
    groups: dict[str, list[str]] = {}
    for name, scenario in SCENARIOS.items():
        groups.setdefault(scenario.params, []).append(name)
    shares = [names[at : at + _SHARE] for names in groups.values() for at in range(0, len(names), _SHARE)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = {name: one for share in pool.map(_child, shares) for name, one in share.items()}
    return {name: found[name] for name in SCENARIOS}


def _child(names: Sequence[str], defects: Sequence[Defect] = ()) -> dict[str, Verdicts]:
    """Run scenarios that share a parameter set in a child process."""
    with mutated_tree(defects) as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            BUILD_VARIABLE: str(folder / "build"),
        }
        try:
            child = subprocess.run(
                [sys.executable, "-m", "cocotb_tests.mutants.child", *names],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as expired:
            raise MutantFailed(f"{', '.join(names)}: not done after {_TIMEOUT} s") from expired
        if child.returncode:
            last = "\n".join(child.stderr.strip().splitlines()[-12:])
            raise MutantFailed(f"{', '.join(names)} with {[defect.name for defect in defects]}:\n{last}")
        answer = json.loads(child.stdout.splitlines()[-1])
        if answer["folder"] != os.path.realpath(folder):
            raise MutantFailed(f"the child imported {answer['folder']}, not the mutated tree")
    found = answer["found"]
    return {
        name: Verdicts(
            {mode: found[name][mode]["kind"] for mode in MODES},
            {mode: found[name][mode]["text"] for mode in MODES},
            found[name][BENCH]["cycle"],
        )
        for name in names
    }
