"""Steps in which several vCPUs ran at once: an interleaving of the model's agents that explains the recording.

The records give the order of what was traced. In between, an agent's loads and stores may come at any time up to
its next record. The search begins with a usual order (a kernel reads on at once, but stores and guests are late);
where it gets stuck it lets an agent run ahead, up to its next store or its next record, or holds it back, after
one or two of the last records. An interleaving that agrees with all records is an explanation; the first one is taken.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecord
from cocotb_tests.kvm_replay.host import answer_fault, host_agent, interrupted, wants_lock
from cocotb_tests.kvm_replay.match import Matcher, Mismatch
from cocotb_tests.kvm_replay.recorded_steps import Step
from cocotb_tests.kvm_replay.session import Session
from cocotb_tests.kvm_replay.steps import guest
from pymodel import effects as base
from pymodel.effects import Effect, Load
from pymodel.kvm.effects import HostFault, HostInterrupt, KvmAgent, KvmEffect, Resched, SpteChanged, Trace
from pymodel.kvm.vm import Vm

__all__ = ["race"]

_LATE, _LOADS, _ALL = 0, 1, 2
_LOOK_BACK = 14
_LOOK_BACK_PAIRS = 5
_TRIES = 4000
Plan = dict[tuple[int, str], int]
"""(records consumed by all, task) -> how far the task runs ahead there; `_usual` where nothing is said."""


@dataclass(slots=True)
class _Task:
    """One task: a stack of agents (a vCPU, notifiers within its host faults) and its own records."""

    name: str
    matcher: Matcher
    stack: list[KvmAgent[Any]]
    pending: KvmEffect | None = None
    answer: Any = None
    result: int = 0
    places: list[int] = field(default_factory=list)
    """Where in the whole order it consumed its records."""


class _Run:
    """One attempt at one interleaving."""

    def __init__(self, replay: Session, vm: Vm, step: Step, plan: Plan) -> None:
        self.replay = replay
        self.vm = vm
        self.plan = plan
        self.tasks: dict[str, _Task] = {}
        self.consumed = 0
        self.current = ""
        """The task whose turn it is."""
        self.ends = step.ends
        names = self.names = _tasks(step)
        records: dict[str, list[KvmRecord]] = {name: [] for name in names.values()}
        for record in step.body:
            records.setdefault(record.task, []).append(record)
        guests = [op for op in step.ops if str(op.fields["op"]).startswith("guest_")]
        agents = {names[op.fields["vcpu"]]: guest(replay, vm, op) for op in guests}
        for name, own in records.items():
            stack = [agents[name]] if name in agents else []
            self.tasks[name] = _Task(name, replay.matcher.part(own), stack)

    def go(self) -> None:
        """Run to the end. Raises `Mismatch`."""
        while True:
            waiting = [task for task in self.tasks.values() if task.matcher.peek() is not None]
            if not waiting:
                break
            task = min(waiting, key=lambda one: one.matcher.records[one.matcher.position].line)
            self.current = task.name
            record = task.matcher.records[task.matcher.position]
            self._consume(task)
            self.consumed += 1
            task.places.append(self.consumed)
            self._ahead(task, self.plan.get((self.consumed, task.name), _usual(record)))
            for other in self.tasks.values():
                if other is not task:
                    self._ahead(other, self.plan.get((self.consumed, other.name), _LATE))
        for task in self.tasks.values():
            while self._effect(task) is not None:
                self._apply(task)
            task.matcher.end()
        for end in self.ends:
            name, result = self.names.get(end.fields.get("vcpu", -1)), end.fields.get("ret", 0)
            if name is not None and result != -self.tasks[name].result:
                self.replay.matcher.fail(f"result {result}", f"result {-self.tasks[name].result}", end.line)

    def _effect(self, task: _Task) -> KvmEffect | None:
        """The effect that the task is at; None where it has ended."""
        while task.pending is None and task.stack:
            try:
                task.pending = task.stack[-1].send(task.answer)
            except StopIteration as stop:
                task.stack.pop()
                task.answer = None
                if task.stack:
                    task.pending = _interrupted_at(task)
                elif stop.value is not None:
                    task.result = stop.value
            else:
                task.answer = None
        return task.pending

    def _apply(self, task: _Task) -> None:
        """Let the pending effect happen; what is compared consumes a record or raises `Mismatch`."""
        effect = task.pending
        assert effect is not None
        if isinstance(effect, HostFault):
            if not self._host(task, effect):
                task.answer = answer_fault(self.replay, effect, task.matcher)
                task.pending = None
            return
        task.pending = None
        if isinstance(effect, Effect):
            task.answer = base.apply(effect, self.replay.memory)
        elif isinstance(effect, Resched):
            task.answer = wants_lock(self.replay, effect, task.matcher)
        elif isinstance(effect, HostInterrupt):
            task.answer = interrupted(self.replay, task.matcher)
        elif isinstance(effect, SpteChanged | Trace):
            task.matcher.event(effect)

    def _host(self, task: _Task, effect: KvmEffect | None) -> bool:
        """Start a notifier that the task's records have here."""
        agent = host_agent(self.replay, self.vm, task.matcher)
        if agent is None:
            return False
        if effect is not None:
            task.stack.append(_again(effect))
        task.stack.append(agent)
        task.pending = None
        task.answer = None
        return True

    def _consume(self, task: _Task) -> None:
        """Run the task until it has consumed a record."""
        place = task.matcher.position, task.matcher.inside
        while (task.matcher.position, task.matcher.inside) == place:
            effect = self._effect(task)
            if effect is None:
                if not self._host(task, None):
                    task.matcher.end()
                continue
            if isinstance(effect, SpteChanged | Trace) and task.matcher.shows(effect) and not task.matcher.inside:
                if self._host(task, effect) or task.matcher.pass_over(effect):
                    continue
            self._apply(task)

    def _ahead(self, task: _Task, how: int) -> None:
        """Let the task run ahead of its next record."""
        while how != _LATE:
            effect = self._effect(task)
            if effect is None or isinstance(effect, HostFault):
                return
            if isinstance(effect, SpteChanged | Trace) and task.matcher.shows(effect):
                return
            if how == _LOADS and isinstance(effect, Effect) and not isinstance(effect, Load):
                return
            self._apply(task)


def _again(effect: KvmEffect) -> KvmAgent[Any]:
    """Stands for an effect that a notifier came before."""
    return (yield effect)


def _interrupted_at(task: _Task) -> KvmEffect | None:
    """After a notifier: the placeholder below it says what the task was at."""
    placeholder = task.stack.pop()
    return next(placeholder, None)


def _tasks(step: Step) -> dict[int, str]:
    """vCPU -> its task, by the records that name both."""
    names: dict[int, str] = {}
    for record in step.body:
        vcpu = record.fields.get("vcpu")
        if isinstance(vcpu, int):
            names.setdefault(vcpu, record.task)
    for op in step.ops:
        if "vcpu" not in op.fields:
            continue
        names.setdefault(op.fields["vcpu"], op.task if len(step.ops) == 1 else f"vcpu {op.fields['vcpu']}")
    return names


def race(replay: Session, step: Step) -> None:
    """Find an interleaving for the step and leave the replay in its final state. Raises `Mismatch` if none is found."""
    restore = _checkpoint(replay)
    plan: Plan = {}
    best: Mismatch | None = None
    for _ in range(_TRIES):
        if best is None:
            run, failure = _attempt(replay, step, plan)
            if failure is None:
                _finish(replay, run)
                return
            best = failure
        improved = False
        for change in _changes(run, plan):
            restore()
            attempt, failure = _attempt(replay, step, plan | change)
            if failure is None:
                _finish(replay, attempt)
                return
            if failure.divergence.line > best.divergence.line:
                plan, best, run, improved = plan | change, failure, attempt, True
                break
        if not improved:
            break
    assert best is not None
    raise best


def _attempt(replay: Session, step: Step, plan: Plan) -> tuple[_Run, Mismatch | None]:
    assert replay.vm is not None
    replay.result.interleavings += 1
    run = _Run(replay, replay.vm, step, plan)
    try:
        run.go()
    except Mismatch as mismatch:
        return run, mismatch
    return run, None


def _changes(run: _Run, plan: Plan) -> list[Plan]:
    """Changes of the plan at the last records, those of the stuck task first; then two at once."""
    tasks = sorted(run.tasks, key=lambda name: name != run.current)

    def near(count: int) -> list[Plan]:
        places = range(run.consumed, max(0, run.consumed - count), -1)
        keys = [(place, name) for place in places for name in tasks]
        return [{key: how} for key in keys for how in (_LOADS, _ALL, _LATE) if plan.get(key) != how]

    own = [
        {(place, run.current): how} for place in run.tasks[run.current].places[:-4:-1] for how in (_LATE, _LOADS, _ALL)
    ]
    few = near(_LOOK_BACK_PAIRS)
    pairs = [one | other for one, other in itertools.combinations(few, 2) if one.keys() != other.keys()]
    return own + near(_LOOK_BACK) + pairs


def _usual(record: KvmRecord) -> int:
    """How far a task runs ahead after this record if the plan does not say."""
    if record.name == "vmentry":
        return _LATE
    return _ALL if record.name.endswith("invalidate_range_end") else _LOADS


def _finish(replay: Session, run: _Run) -> None:
    replay.matcher.position = len(replay.matcher.records)
    replay.matcher.compared += sum(task.matcher.compared for task in run.tasks.values())
    replay.result.transitions += sum(
        1 for task in run.tasks.values() for record in task.matcher.records if record.name == "spte"
    )


def _checkpoint(replay: Session) -> Callable[[], None]:
    """Remember the state before the step; the result puts it back, as often as wanted."""
    memory, renaming, oracles = replay.memory.copy(), replay.matcher.save(), Counter(replay.oracles)
    recovering = replay.recovering
    keep = {id(replay): replay}
    state = copy.deepcopy((replay.vm, replay.host), dict(keep))

    def restore() -> None:
        replay.memory = memory.copy()
        replay.vm, replay.host = copy.deepcopy(state, dict(keep))
        replay.params = replay.vm.params if replay.vm is not None else replay.params
        replay.matcher.restore(renaming, replay.vm)
        replay.oracles, replay.recovering = Counter(oracles), recovering

    return restore
