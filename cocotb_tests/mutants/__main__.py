"""`python -m cocotb_tests.mutants [NAME...]`: seed defects, show who notices them, write the table."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from cocotb_tests.mutants.apply import MutantFailed, Verdicts, clean, judge
from cocotb_tests.mutants.catalogue import CATALOGUE, by_name, seeded
from cocotb_tests.mutants.defect import MODES, Defect, Judge
from cocotb_tests.mutants.scenarios import SCENARIOS
from cocotb_tests.mutants.table import DOCUMENT, write

__all__ = ["main"]

_Answer = tuple[Defect, Verdicts | None, str]


def _seed(defect: Defect) -> _Answer:
    try:
        return defect, judge(defect.scenario, seeded(defect)), ""
    except (MutantFailed, ValueError) as error:
        return defect, None, str(error)


def _answers(defects: Sequence[Defect], jobs: int) -> Iterator[_Answer]:
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(_seed, defects)


def _names(found: frozenset[Judge]) -> str:
    return " ".join(mode for mode in MODES if mode in found) or "nobody"


def _clean_scenarios() -> list[str]:
    """Run every scenario on the system as it is; the complaints."""
    bad = []
    for name, verdicts in clean().items():
        if any(verdicts.kinds.values()):
            bad.append(f"{name}: a complaint about the system as it is\n{verdicts.explain()}")
    print(f"{len(SCENARIOS)} scenarios on the system as it is: {len(bad)} with complaints", flush=True)
    return bad


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where every defect was noticed by exactly the judges that the catalogue names."""
    parser = argparse.ArgumentParser(prog="python -m cocotb_tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="defects to run (default: all, and write the table)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="simulations at once")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        defects = [by_name(name) for name in chosen.names] or list(CATALOGUE)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    wrong: list[str] = [] if chosen.names else _clean_scenarios()
    caught: dict[str, frozenset[Judge]] = {}
    for number, (defect, verdicts, problem) in enumerate(_answers(defects, chosen.jobs), 1):
        if verdicts is None:
            wrong.append(f"{defect.name}: {problem}")
            print(f"{number:3}/{len(defects)} {defect.name}: could not be run", flush=True)
            continue
        caught[defect.name] = verdicts.caught
        print(f"{number:3}/{len(defects)} {defect.name}: {_names(verdicts.caught)}", flush=True)
        if chosen.names:
            print(verdicts.explain())
        if verdicts.caught != defect.caught:
            wrong.append(f"{defect.name}: expected {_names(defect.caught)}, got {_names(verdicts.caught)}")
    for line in wrong:
        print(line, file=sys.stderr)
    if not chosen.names and len(caught) == len(CATALOGUE):
        write(caught)
        print(f"{DOCUMENT} written")
    print(f"{len(defects)} defects, {len(wrong)} not as expected, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
