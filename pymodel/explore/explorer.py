"""Every interleaving of agents and units, with state hashing and partial-order reduction.

Reduction. In each state a *persistent set* of participants is expanded: a set such that nothing which the
others may ever do before it moves conflicts with its next moves (Godefroid, LNCS 1032). "May ever do" is
learnt: each position of an agent knows the resources that it and all positions seen after it touch. An
exploration that learns something new is repeated; at the fixed point no conflict can have been missed: take
a path of others from a state s that ends with the first conflict with the expanded set; after a move of the
set the path before the conflict is still possible, that smaller subgraph holds it up to order by induction,
so its conflict was recorded. This needs an acyclic state graph, which is checked.

All orders of independent moves lead to the same state, and all have the same length: outcomes and shortest
schedules are those of plain enumeration. A `check` of each state is only complete with `reduce=False`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from pymodel.effects import CompareExchange, Event, FetchAnd, FetchOr, Load, Store, WaitFor, apply
from pymodel.explore.agents import AgentTree, Choose, Factory, Node
from pymodel.explore.labels import Names, label_of
from pymodel.explore.results import Exploration, Outcome, ScheduleStep, StateView, TooLarge
from pymodel.explore.search import Search, State, count_schedules
from pymodel.explore.unit import MORE, NOTHING, Pending, Resource, Unit
from pymodel.explore.world import JointTrees, Start, World
from pymodel.memory import SparseMem

__all__ = ["explore"]


@dataclass(frozen=True, slots=True)
class _Move:
    label: str
    stores: tuple[tuple[int, int], ...]
    node: Node | None
    """New position of the agent; None where it still waits, and for a unit's own move."""
    unit: tuple[int, Any] | None
    """(number, new state)."""
    shared: int = 0
    """Number of what is shared afterwards."""


@dataclass(slots=True)
class _Turn:
    """What one participant may do in a state."""

    reads: int
    writes: int
    future_reads: int
    future_writes: int
    moves: list[_Move]


_SHARED: Resource = ("shared",)
"""What agents of a `World` share besides memory."""


def explore(
    agents: Mapping[str, Factory] | Callable[[], World],
    memory: SparseMem,
    units: Sequence[Unit] = (),
    *,
    reduce: bool = True,
    observe: Mapping[str, int] | None = None,
    check: Callable[[StateView], str] | None = None,
    quiet: tuple[type, ...] = (),
    names: Names | None = None,
    max_states: int = 2_000_000,
) -> Exploration:
    """Run the agents in every order; `observe` names words of memory whose final value is part of the outcome.

    `agents`: a factory for each, or one for a whole `World` where they share Python objects.
    `check` says what is wrong with a state ("" for nothing); a state in which something is ends its schedule.
    `quiet`: further effect types without effect. `names`: what schedules call words of memory.
    Raises `TooLarge` beyond `max_states`, `ValueError` for an agent that is not a function of its answers and
    for a state graph with a cycle, `TypeError` for an effect that nobody performs.
    """
    words = names or Names()
    return _Explorer(agents, memory, units, reduce, dict(observe or {}), check, quiet, words, max_states).run()


class _Explorer:
    def __init__(
        self,
        agents: Mapping[str, Factory] | Callable[[], World],
        memory: SparseMem,
        units: Sequence[Unit],
        reduce: bool,
        observe: Mapping[str, int],
        check: Callable[[StateView], str] | None,
        quiet: tuple[type, ...],
        names: Names,
        max_states: int,
    ) -> None:
        self.joint = JointTrees(agents, quiet, check is not None) if callable(agents) else None
        self.sharing = len(self.joint.names) if self.joint else 0
        """The first agents so many share more than memory."""
        apart = self.joint.apart if self.joint else agents
        assert not callable(apart)
        self.trees = [AgentTree(*item, quiet) for item in apart.items()]
        self.names = (*(self.joint.names if self.joint else ()), *apart)
        self.nodes = [*(self.joint.nodes if self.joint else ()), *(tree.nodes for tree in self.trees)]
        self.units = tuple(units)
        self.own = [(number, which) for number, unit in enumerate(units) for which in range(len(unit.threads))]
        self.participants = (*self.names, *(f"{units[number].threads[which]}" for number, which in self.own))
        if len(set(self.participants)) != len(self.participants):
            raise ValueError(f"participants must have different names, not {', '.join(self.participants)}")
        self.memory = memory
        self.reduce = reduce
        self.observe = observe
        self.check = check
        self.words = names
        self.max_states = max_states
        self.bits: dict[Resource, int] = {}
        self.chains: list[list[Node]] = [[] for _ in self.own]
        self.grown = False

    # --- resources -----------------------------------------------------------------------------------------

    def _mask(self, resources: frozenset[Resource]) -> int:
        mask = 0
        for resource in resources:
            bit = self.bits.get(resource)
            if bit is None:
                bit = self.bits[resource] = 1 << len(self.bits)
            mask |= bit
        return mask

    def _chain(self, own: int, position: int) -> Node:
        """The position of a unit's thread; the ones before it count as its parents."""
        chain = self.chains[own]
        while len(chain) <= position:
            chain.append(Node(len(chain), chain[-1] if chain else None))
        return chain[position]

    # --- what may happen next ------------------------------------------------------------------------------

    def _move(
        self,
        who: int,
        node: Node,
        label: str,
        answer: Any,
        search: Search,
        at: int,
        stores: tuple[tuple[int, int], ...] = (),
        unit: tuple[int, Any] | None = None,
    ) -> _Move:
        """The agent gets on from state `at`, for its effect is answered."""
        after, shared = self._next(who, node, answer, search, at)
        return _Move(label, stores, after, unit, shared)

    def _next(self, who: int, node: Node, answer: Any, search: Search, at: int) -> tuple[Node, int]:
        """Position and number of what is shared, when the effect is answered in state `at`."""
        if self.joint is None or who >= self.sharing:
            return self.trees[who - self.sharing].after(node, answer), search.states[at][2][-1]
        _, positions, units = search.states[at]
        return self.joint.after(who, positions[: self.sharing], answer, units[-1], lambda: self._history(search, at))

    def _history(self, search: Search, at: int) -> list[tuple[int, Any]]:
        """(agent, answer) of each step of agents that share, on the way to state `at`."""
        assert self.joint is not None
        steps = []
        while at:
            before, who, _, stepped = search.origins[at]
            if stepped and who < self.sharing:
                nodes, state = self.nodes[who], search.states[before]
                old, new = nodes[state[1][who]], nodes[search.states[at][1][who]]
                steps.append((who, self.joint.answer(old, new, state[2][-1])))
            at = before
        return steps[::-1]

    def _pending(self, who: int, node: Node, search: Search, at: int) -> tuple[Pending, list[_Move]]:
        memory, _, units = search.states[at]
        effect = node.effect
        if isinstance(effect, Choose):
            options = effect.options
            return NOTHING, [self._move(who, node, f"chooses {option}", option, search, at) for option in options]
        if isinstance(effect, Start):
            return NOTHING, [self._move(who, node, "starts", None, search, at)]
        for number, unit in enumerate(self.units):
            if unit.takes(effect):
                pending = unit.agent_moves(who, effect, units[number], memory)
                return pending, [
                    _Move(move.label, move.stores, None, (number, move.state))
                    if move.answer is MORE
                    else self._move(who, node, move.label, move.answer, search, at, move.stores, (number, move.state))
                    for move in pending.moves
                ]
        if isinstance(effect, WaitFor):
            reads: frozenset[Resource] = frozenset({effect.address & ~7})
            moves = []
            if effect.satisfied(memory.load):
                label = f"sees {self.words.word(effect.address)} = {effect.value:#x}"
                moves.append(self._move(who, node, label, None, search, at))
            return Pending(reads, frozenset(), ()), moves
        if not isinstance(effect, Load | Store | CompareExchange | FetchOr | FetchAnd):
            raise TypeError(f"agent {self.names[who]} yields {effect!r}, which nobody here performs")
        word: frozenset[Resource] = frozenset({effect.address})
        after = memory.copy()
        answer = apply(effect, after)
        new = after.load(effect.address)
        stores = () if new == memory.load(effect.address) else ((effect.address, new),)
        writes = frozenset[Resource]() if isinstance(effect, Load) else word
        label = label_of(effect, answer, self.words)
        return Pending(word, writes, ()), [self._move(who, node, label, answer, search, at, stores)]

    def _turns(self, search: Search, at: int) -> list[_Turn]:
        turns = []
        state = search.states[at]
        for who, nodes in enumerate(self.nodes):
            node = nodes[state[1][who]]
            if node.done:
                turns.append(_Turn(0, 0, 0, 0, []))
                continue
            pending, moves = self._pending(who, node, search, at)
            if who < self.sharing:
                shared = frozenset({_SHARED})
                changes = any(move.node is not None and move.shared != state[2][-1] for move in moves)
                writes = pending.writes | shared if changes else pending.writes
                pending = Pending(pending.reads | shared, writes, ())
            turns.append(self._turn(node, pending, moves))
        for own, (number, which) in enumerate(self.own):
            unit, unit_state = self.units[number], state[2][number]
            pending = unit.own_moves(which, unit_state, state[0])
            moves = [_Move(move.label, move.stores, None, (number, move.state)) for move in pending.moves]
            turns.append(self._turn(self._chain(own, unit.own_position(which, unit_state)), pending, moves))
        return turns

    def _turn(self, node: Node, pending: Pending, moves: list[_Move]) -> _Turn:
        if not self.reduce:
            return _Turn(0, 0, 0, 0, moves)
        reads, writes = self._mask(pending.reads), self._mask(pending.writes)
        if node.touch(reads, writes):
            self.grown = True
        return _Turn(reads, writes, node.future_reads, node.future_writes, moves)

    def _persistent(self, turns: list[_Turn]) -> list[int]:
        """Participants to expand: the persistent set with the fewest moves."""
        enabled = [who for who, turn in enumerate(turns) if turn.moves]
        if not self.reduce or len(enabled) < 2:
            return enabled
        best, fewest = enabled, sum(len(turns[who].moves) for who in enabled)
        for seed in enabled:
            chosen = {seed}
            reads, writes = turns[seed].reads, turns[seed].writes
            rest = [who for who in range(len(turns)) if who != seed]
            again = True
            while again:
                again = False
                for who in rest:
                    other = turns[who]
                    if writes & (other.future_reads | other.future_writes) or reads & other.future_writes:
                        chosen.add(who)
                        reads, writes = reads | other.reads, writes | other.writes
                        rest.remove(who)
                        again = True
                        break
            moves = sum(len(turns[who].moves) for who in chosen)
            if moves < fewest:
                best, fewest = [who for who in enabled if who in chosen], moves
                if fewest == 1:
                    break
        return best

    # --- the search ----------------------------------------------------------------------------------------

    def run(self) -> Exploration:
        """Explore until nothing new is learnt."""
        began = perf_counter()
        passes = 0
        while True:
            passes += 1
            self.grown = False
            search = Search()
            self._search(search)
            if not (self.reduce and (self.grown or (self.joint and self.joint.grown))):
                break
            if self.joint:
                self.joint.grown = False
        outcomes = {outcome: self._schedule(search, last) for outcome, last in search.ends.items()}
        schedules = count_schedules(search.edges)
        transitions = sum(map(len, search.edges))
        seconds = perf_counter() - began
        return Exploration(self.participants, outcomes, len(search.states), transitions, schedules, passes, seconds)

    def _search(self, search: Search) -> None:
        """Breadth first, so that the first schedule to an outcome is a shortest one."""
        units = tuple(unit.start(len(self.nodes)) for unit in self.units)
        start: State = (self.memory.copy(), (0,) * len(self.nodes), (*units, 0))
        search.add(start, (-1, -1, "", False))
        at = 0
        while at < len(search.states):
            state = search.states[at]
            edges = search.edges[at]
            broken = self.check(self._view(state)) if self.check else ""
            turns = self._turns(search, at)
            chosen = [] if broken else self._persistent(turns)
            for who in chosen:
                for move in turns[who].moves:
                    after = self._after(state, who, move)
                    edges.append(search.add(after, (at, who, move.label, move.node is not None)))
            if not chosen:
                search.ends.setdefault(self._outcome(state, broken), at)
            if len(search.states) > self.max_states:
                raise TooLarge(f"more than {self.max_states:,} states")
            at += 1

    def _view(self, state: State) -> StateView:
        memory, _, units = state
        named = {unit.name: own for unit, own in zip(self.units, units, strict=False)}
        return StateView(memory, named, self.joint.copies[units[-1]] if self.joint else None, units[-1])

    def _after(self, state: State, who: int, move: _Move) -> State:
        memory, nodes, units = state
        if move.stores:
            memory = memory.copy()
            for address, value in move.stores:
                memory.store(address, value)
        if move.node is not None:
            nodes = (*nodes[:who], move.node.number, *nodes[who + 1 :])
        if move.unit is not None:
            number, new = move.unit
            units = (*units[:number], new, *units[number + 1 :])
        if move.node is not None and who < self.sharing:
            units = (*units[:-1], move.shared)
        return memory, nodes, units

    def _outcome(self, state: State, broken: str) -> Outcome:
        memory, positions, _ = state
        nodes = [nodes[number] for nodes, number in zip(self.nodes, positions, strict=True)]
        return Outcome(
            tuple(node.events for node in nodes),
            tuple(node.value for node in nodes),
            tuple((name, memory.load(address)) for name, address in self.observe.items()),
            tuple(name for name, node in zip(self.names, nodes, strict=True) if not (node.done or broken)),
            broken,
        )

    def _schedule(self, search: Search, last: int) -> tuple[ScheduleStep, ...]:
        steps: list[ScheduleStep] = []
        while True:
            before, who, label, _ = search.origins[last]
            if before < 0:
                break
            events: tuple[Event, ...] = ()
            if who < len(self.nodes):
                nodes = self.nodes[who]
                old = nodes[search.states[before][1][who]].events
                events = nodes[search.states[last][1][who]].events[len(old) :]
            steps.append(ScheduleStep(self.participants[who], label, events))
            last = before
        return tuple(reversed(steps))
