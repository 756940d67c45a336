"""Requests that wait for walks, and the order in which they are answered (docs/timing.md F3, L9, C1, C4, C5,
I7).
"""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.layouts import pending_index, port_layout, slot_index
from hdl.lib.choose import encode, lowest, offer_next
from pymodel.spec.params import IommuParams

__all__ = ["Pending", "PendingState", "waiting_layout"]


class PendingState(enum.Enum, shape=2):
    """State of a pending entry (F3)."""

    FREE = 0
    WAIT = 1
    ANSWER = 2
    REPLAY = 3


def waiting_layout(params: IommuParams) -> data.StructLayout:
    """What an entry keeps of its last lookup."""
    return data.StructLayout({"slot": slot_index(params), "scalable": 1, "fpd": 1, "pgsnp": 1})


class Pending(wiring.Component):
    """P entries; requests in a memory (one write port, two read ports), states in registers.

    Members:
    - `wait` puts entry `wait_index` into WAIT with `waiting` at the end of the cycle; `keep` also stores
      `request`.
    - `drop_replay` frees the replaying entry at the end of the cycle.
    - `replay`, `replay_index`, `replay_request`: the entry to look up again.
    - `replay_retried`: it was refused late before.
    - `ended`, `ended_replay`, `killed`: slots whose walks end, and that are killed, in this cycle;
      `outstanding`: whose read is outstanding; `advanced`: that go on to their next read.
    - `answer_request`, `answer_waiting`: the entry that is judged; `refused`: it would be refused. `answer`:
      its answer is offered; `taken`: it is taken in this cycle.
    - `released`: one-hot slot that the taken answer, or a late refusal, frees. `offered`: one-hot slot of an
      answer offered and not taken.
    - `available`: entries that may be allocated in this cycle. `used`: entries that are not FREE.
    Timing: combinational from registers, but for `released`, `offered` and `available`, which follow `taken`.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        slots, entries, index = params.walk_slots, params.pending_requests, pending_index(params)
        request = port_layout(params, "requests")
        super().__init__(
            {
                "wait": In(1),
                "wait_index": In(index),
                "waiting": In(waiting_layout(params)),
                "keep": In(1),
                "request": In(request),
                "drop_replay": In(1),
                "replay": Out(1),
                "replay_index": Out(index),
                "replay_request": Out(request),
                "replay_retried": Out(1),
                "ended": In(slots),
                "ended_replay": In(1),
                "killed": In(slots),
                "outstanding": In(slots),
                "advanced": In(slots),
                "refused": In(1),
                "answer": Out(1),
                "answer_request": Out(request),
                "answer_waiting": Out(waiting_layout(params)),
                "taken": In(1),
                "released": Out(slots),
                "offered": Out(slots),
                "available": Out(entries),
                "used": Out(entries),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Choice of the answer, state changes; later statements win at the end of a cycle."""
        m = Module()
        params = self._params
        entries = params.pending_requests
        m.submodules.requests = requests = Memory(
            shape=port_layout(params, "requests"), depth=entries, init=[]
        )
        states = [Signal(PendingState, name=f"state_{number}") for number in range(entries)]
        waiting = [Signal(waiting_layout(params), name=f"waiting_{number}") for number in range(entries)]

        late, retried = Signal(entries), Signal(entries)

        write = requests.write_port()
        replay_read, answer_read = requests.read_port(domain="comb"), requests.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.wait & self.keep),
            write.addr.eq(self.wait_index),
            write.data.eq(self.request),
            replay_read.addr.eq(self.replay_index),
            self.replay_request.eq(replay_read.data),
        ]

        replaying, answering, free = Signal(entries), Signal(entries), Signal(entries)
        for number, state in enumerate(states):
            m.d.comb += [
                replaying[number].eq(state == PendingState.REPLAY),
                answering[number].eq(state == PendingState.ANSWER),
                free[number].eq(state == PendingState.FREE),
            ]
        m.d.comb += [
            self.replay.eq(replaying.any()),
            self.replay_index.eq(encode(lowest(replaying))),
            self.replay_retried.eq((lowest(replaying) & retried).any()),
            self.used.eq(~free),
        ]

        pointer, held, chosen = Signal(pending_index(params)), Signal(entries), Signal(entries)
        index = Signal(pending_index(params))
        doubted, moves = Signal(), Signal()
        m.d.comb += [
            chosen.eq(Mux(held.any(), held, offer_next(m, answering, pointer))),
            index.eq(encode(chosen)),
            doubted.eq((chosen & late).any() & self.refused),
            self.answer.eq(chosen.any() & ~doubted),
            moves.eq(self.taken | doubted),
            answer_read.addr.eq(index),
            self.answer_request.eq(answer_read.data),
            self.answer_waiting.eq(Array(waiting)[index] if entries > 1 else waiting[0]),
        ]
        m.d.sync += held.eq(Mux(moves, 0, chosen))
        with m.If(moves):
            m.d.sync += pointer.eq(Mux(index == entries - 1, 0, index + 1))

        slot = self.answer_waiting.slot
        others = Signal(entries)
        for number, state in enumerate(states):
            counts = (state == PendingState.WAIT) | (state == PendingState.ANSWER)
            m.d.comb += others[number].eq(counts & (waiting[number].slot == slot) & ~chosen[number])
        with m.If(moves & ~others.any()):
            m.d.comb += self.released.eq(1 << slot)
        with m.If(self.answer & ~self.taken):
            m.d.comb += self.offered.eq(1 << slot)
        m.d.comb += self.available.eq(free | Mux(self.taken, chosen, 0))

        for number, state in enumerate(states):
            own = waiting[number].slot
            joins = self.wait & (self.wait_index == number)
            after_walk = Mux(self.ended_replay, PendingState.REPLAY, PendingState.ANSWER)
            in_walk = (state == PendingState.WAIT) | (state == PendingState.ANSWER)
            with m.If((state == PendingState.WAIT) & self.ended.bit_select(own, 1)):
                m.d.sync += state.eq(after_walk)
            with m.If(in_walk & self.killed.bit_select(own, 1) & ~chosen[number]):
                m.d.sync += state.eq(PendingState.REPLAY)
            with m.If(doubted & chosen[number]):
                m.d.sync += [state.eq(PendingState.REPLAY), retried[number].eq(1)]
            with m.If(self.advanced.bit_select(own, 1)):
                m.d.sync += late[number].eq(0)
            with m.If((self.taken & chosen[number]) | (self.drop_replay & (self.replay_index == number))):
                m.d.sync += state.eq(PendingState.FREE)
            with m.If(joins):
                # The walk that it joins may end in this very cycle.
                over = self.ended.bit_select(self.waiting.slot, 1)
                before = (self.outstanding & ~self.advanced).bit_select(self.waiting.slot, 1)
                m.d.sync += [state.eq(Mux(over, after_walk, PendingState.WAIT)), waiting[number].eq(self.waiting)]
                m.d.sync += late[number].eq(before)
                with m.If(self.keep):
                    m.d.sync += retried[number].eq(0)
        return m
