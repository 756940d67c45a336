"""How a litmus test is declared, found and explored.

A test is a function `build(twin, case) -> Scenario`: initial memory, agents, units, and what makes an outcome
forbidden. The correct protocol must not reach a forbidden outcome in any of its `cases`; each of the broken
`twins` must reach one, so that no test can pass because it looks at nothing (DESIGN D6). `covers` names
outcomes that the correct protocol has to reach, for the same reason.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from pymodel.explore import Exploration, Names, Outcome, ScheduleStep, StateView, Unit, World
from pymodel.explore import explore as explore_scenario
from pymodel.explore.agents import Factory, Failed
from pymodel.memory import SparseMem

__all__ = ["FAMILIES", "Litmus", "LitmusResult", "Run", "Scenario", "UnknownLitmus", "all_tests", "explore", "litmus"]

FAMILIES = ("split", "collapse", "ordering", "permission", "page_request", "notifier_race", "slot_delete",
            "live_tables")  # fmt: skip
"""Modules of this package that declare tests."""


class UnknownLitmus(ValueError):
    """No test has this id."""


@dataclass(frozen=True)
class Scenario:
    """One exploration."""

    agents: Mapping[str, Factory] | Callable[[], World]
    """A factory for each agent, or one for all where they share Python objects."""
    memory: SparseMem
    forbidden: Callable[[Outcome], str]
    """Why an outcome is forbidden, "" where it is not. A stuck agent or a failed assertion always is."""
    units: tuple[Unit, ...] = ()
    observe: Mapping[str, int] = field(default_factory=dict)
    """Words of memory that belong to the outcome, by name."""
    covers: Mapping[str, Callable[[Outcome], bool]] = field(default_factory=dict)
    """What some outcome of the correct protocol has to show."""
    servers: tuple[str, ...] = ()
    """Agents that may wait forever in the end."""
    quiet: tuple[type, ...] = ()
    """Effect types that are answered with None and mean nothing here."""
    check: Callable[[StateView], str] | None = None
    """What is wrong with a state; see `pymodel.explore.explore`. Counts as forbidden, for a twin too.

    Every state is visited then: a test with a check is explored without reduction.
    """
    names: Names = field(default_factory=Names)
    """What schedules call words of memory."""
    legend: Mapping[int, str] = field(default_factory=dict)
    """What values that outcomes show stand for."""


Build = Callable[[bool, str], Scenario]


@dataclass(frozen=True)
class Litmus:
    """A test of the catalogue."""

    id: str
    seed: str
    """Mails that ask for it, S0..S4."""
    title: str
    forbidden: str
    """What must not happen, in words."""
    twin: str
    """What is broken in the twin, in words."""
    build: Build
    cases: tuple[str, ...] = ("",)
    """Variants of the correct protocol; all must be clean."""
    twins: tuple[str, ...] = ("",)
    """Variants of the broken twin; each must reach a forbidden outcome."""
    family: str = ""


@dataclass(frozen=True)
class Run:
    """One variant, explored."""

    case: str
    exploration: Exploration
    forbidden: Mapping[Outcome, str]
    """Forbidden outcomes that are reachable, with the reason."""
    uncovered: tuple[str, ...]
    """Names of `Scenario.covers` that no outcome shows."""
    legend: Mapping[int, str]
    """See `Scenario`."""

    def schedule(self, outcome: Outcome) -> tuple[ScheduleStep, ...]:
        """A shortest schedule to the outcome."""
        return self.exploration.outcomes[outcome]


@dataclass(frozen=True)
class LitmusResult:
    """All variants of a test, or of its twin."""

    litmus: Litmus
    twin: bool
    runs: tuple[Run, ...]

    @property
    def as_expected(self) -> bool:
        """Nothing forbidden and everything covered; of a twin: something forbidden in every variant."""
        if self.twin:
            return all(run.forbidden for run in self.runs)
        return not any(run.forbidden or run.uncovered for run in self.runs)

    @property
    def states(self) -> int:
        """Of all variants."""
        return sum(run.exploration.states for run in self.runs)

    @property
    def transitions(self) -> int:
        """Of all variants."""
        return sum(run.exploration.transitions for run in self.runs)

    @property
    def schedules(self) -> int:
        """Of all variants."""
        return sum(run.exploration.schedules for run in self.runs)

    @property
    def seconds(self) -> float:
        """Of all variants."""
        return sum(run.exploration.seconds for run in self.runs)


_REGISTRY: dict[str, Litmus] = {}


def litmus(
    *,
    id: str,
    seed: str,
    title: str,
    forbidden: str,
    twin: str,
    cases: tuple[str, ...] = ("",),
    twins: tuple[str, ...] = ("",),
) -> Callable[[Build], Build]:
    """Declare the decorated function as a test; raises `ValueError` for an id that exists."""

    def register(build: Build) -> Build:
        if id in _REGISTRY and _REGISTRY[id].family != build.__module__:
            raise ValueError(f"litmus {id} is declared in {_REGISTRY[id].family} and in {build.__module__}")
        _REGISTRY[id] = Litmus(id, seed, title, forbidden, twin, build, cases, twins, build.__module__)
        return build

    return register


def all_tests() -> Mapping[str, Litmus]:
    """All tests by id, in the order of their ids."""
    for family in FAMILIES:
        import_module(f"pymodel.litmus.{family}")
    return dict(sorted(_REGISTRY.items()))


def find(id: str) -> Litmus:
    """The test of this id; raises `UnknownLitmus`."""
    tests = all_tests()
    if id not in tests:
        raise UnknownLitmus(f"litmus id must be one of {', '.join(tests)}, not {id!r}")
    return tests[id]


def explore(id: str, twin: bool = False, *, reduce: bool = True) -> LitmusResult:
    """Explore every variant of a test, or of its broken twin; raises `UnknownLitmus`."""
    test = find(id)
    return LitmusResult(test, twin, tuple(_run(test, twin, case, reduce) for case in _cases(test, twin)))


def _cases(test: Litmus, twin: bool) -> tuple[str, ...]:
    return test.twins if twin else test.cases


def _run(test: Litmus, twin: bool, case: str, reduce: bool) -> Run:
    scenario = test.build(twin, case)
    exploration = explore_scenario(
        scenario.agents,
        scenario.memory,
        scenario.units,
        reduce=reduce and scenario.check is None,
        observe=scenario.observe,
        check=scenario.check,
        quiet=scenario.quiet,
        names=scenario.names,
    )
    forbidden = {}
    for outcome in exploration.outcomes:
        reason = outcome.broken or scenario.forbidden(outcome) or ("" if twin else _mishap(scenario, outcome))
        if reason:
            forbidden[outcome] = reason
    uncovered = tuple(name for name, shows in scenario.covers.items() if not any(map(shows, exploration.outcomes)))
    return Run(case, exploration, forbidden, uncovered, scenario.legend)


def _mishap(scenario: Scenario, outcome: Outcome) -> str:
    """What no correct protocol may do, and what must not count as the defect of a twin."""
    for name in outcome.stuck:
        if name not in scenario.servers:
            return f"{name} waits forever"
    failed: list[Hashable] = [value.text for value in outcome.values if isinstance(value, Failed)]
    return f"an assertion failed: {failed[0]}" if failed else ""
