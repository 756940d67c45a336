"""The whole model: its interface, and random soaks that check what must hold in every cycle."""

import random
from typing import Any

import pytest

from pymodel.cycle import CycleModel, Inputs
from pymodel.cycle.inputs import RegisterRequest, Request
from pymodel.spec.descriptors import CONTEXT_INV, IOTLB_INV, PASID_CACHE_INV
from pymodel.spec.observation import Lookup, observation
from pymodel.spec.params import PRESETS, Architecture, IommuParams
from pymodel.spec.registers import FSTS

from .bench import PS, RW, TABLE, Bench, page_inv, ready_bench, wait


@pytest.mark.parametrize(
    ("name", "value"), [("np_cache", True), ("inv_reorder", True), ("drain_always", False)]
)
def test_knobs_that_are_not_built(name: str, value: Any) -> None:
    """The message names field and value."""
    with pytest.raises(ValueError, match=f"{name}={value}"):
        CycleModel(IommuParams(**{name: value}))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_observation_layout(preset: str) -> None:
    """First field in the lowest bits; payloads are zero while nothing is valid."""
    params = PRESETS[preset]
    model = CycleModel(params)
    assert model.observe() == 3
    assert list(model.fields()) == [name for name, _ in observation(params)]
    model.step(Inputs(request=(1, 2, 0, 0, 0x1234, 0)))
    model.step(Inputs())
    seen = model.fields()
    assert (seen["hits_valid"], seen["hits_tag"], seen["hits_address"], seen["hits_r"]) == (1, 1, 0x1234, 1)
    word, width = 0, 0
    for name, bits in observation(params):
        word |= seen[name] << width
        width += bits
    assert word == model.observe()


def test_reset() -> None:
    """P4: a reset model behaves like a new one."""
    bench = ready_bench()
    bench.map(0, 0x9000 | RW)
    bench.ask(0)
    bench.model.reset()
    fresh = CycleModel(bench.params)
    for cycle in range(40):
        inputs = Inputs((cycle, 0, 0, 0, cycle << 12, 0), True, True, True, True, True)
        assert bench.model.observe() == fresh.observe()
        bench.model.step(inputs)
        fresh.step(inputs)


class Soak(Bench):
    """Random traffic, ready signals, memory order, descriptors and register accesses.

    A second model gets the same inputs and is never allowed to skip work; both have to agree in every cycle.
    """

    def clock(self, inputs: Inputs) -> None:
        """Both models."""
        awake = self.awake
        assert awake.observe() == self.model.observe()
        awake._quiet = False
        awake._stalled = 0
        awake._registers.events_awake = True
        awake._invalidations.asleep = False
        self.model.step(inputs)
        awake.step(inputs)
        awake._status_stale = awake._word_stale = True

    def tick(self, request: Request | None = None, register: RegisterRequest | None = None) -> dict[str, int]:
        """One cycle; a refusal on `completions` was read after the request had joined its walk (L9, C5)."""
        cycle, frontend = self.cycle, self.model._frontend
        entry = frontend.offered
        refused = entry >= 0 and frontend._offered_reason
        if refused:
            assert self.last_read[frontend.entries[entry].slot] >= self.joined[entry]
        self.refusals += bool(refused)
        self.unbelieved += frontend.unbelieved >= 0
        seen = super().tick(request, register)
        if seen["lookup"] >= Lookup.MERGE:
            self.joined[seen["lookup_pending"]] = cycle - 1
        if self.reads and self.reads[-1][0] == cycle:
            self.last_read[self.reads[-1][1]] = cycle
        return seen

    def start(self, seed: int, mode: int) -> None:
        """Build tables of all kinds for some devices."""
        self.rng = rng = random.Random(seed)
        self.mode, self.next_tag = mode, 0
        self.joined: dict[int, int] = {}
        self.last_read: dict[int, int] = {}
        self.refusals = self.unbelieved = 0
        self.requested: Request | None = None
        self.accepted: list[Request] = []
        self.awake = CycleModel(self.params)
        self.depth = rng.choice((3, 4, 5))
        for sid in range(6):
            more = {"p": 0} if sid == 4 else {"aw": 0} if sid == 5 else {}
            if mode:
                self.scalable(sid=sid, pasid=sid & 1, depth=self.depth, did=7, **more)
            else:
                self.legacy(sid=sid, depth=self.depth, did=7 + (sid & 1), **more)
        for _ in range(150):
            self.change()
        self.enable(mode, queue=True)

    def change(self) -> None:
        """Write some leaf entry, good or bad."""
        rng = self.rng
        iova = self.iova()
        level = rng.choice((0, 0, 0, 0, 1, 2))
        entry = rng.choice((0, 1, 2, 3, 3, 3, 3, 3))
        entry |= rng.getrandbits(34) >> 9 * level << 12 + 9 * level & 0xFFFF_FFFF_F000 | (PS if level else 0)
        if rng.random() < 0.1:
            entry |= 1 << rng.choice((11, 62, 50))
        table = TABLE
        for above in range(self.depth - 1, level, -1):
            slot = table + 8 * (iova >> 12 + 9 * above & 511)
            if self.load(slot) & PS:
                return
            if not self.load(slot) & RW:
                self.store(slot, self.tables | rng.choice((3, 3, 3, 1)))
                self.tables += 0x1000
            table = self.load(slot) & 0xF_FFFF_FFFF_F000
        if level == 0 or not self.load(table + 8 * (iova >> 12 + 9 * level & 511)) & RW:
            self.store(table + 8 * (iova >> 12 + 9 * level & 511), entry)

    def iova(self) -> int:
        """Addresses that share tables and lines often."""
        rng = self.rng
        return (
            rng.getrandbits(2) << 30
            | rng.getrandbits(2) << 21
            | rng.getrandbits(5) << 12
            | rng.getrandbits(12)
        )

    def request(self) -> Request | None:
        """The request that is presented, kept until it is accepted (P1)."""
        rng = self.rng
        if self.requested is None and rng.random() < self.rate:
            pasid = int(self.mode and rng.random() < 0.3)
            iova = 0xFEE0_0000 if rng.random() < 0.02 else self.iova()
            self.requested = (self.next_tag & 255, rng.randrange(6), pasid, pasid, iova, rng.getrandbits(1))
        return self.requested

    def shuffle(self) -> None:
        """Random ready signals; data returns in any order; acks in order (P3)."""
        rng, ready = self.rng, self.ready
        for port in ("hits", "completions", "reads", "writes", "register_responses"):
            setattr(ready, f"{port}_ready", rng.random() < self.readiness)
        due = [entry for entry in self.returns if entry[0] <= self.cycle]
        if due and rng.random() < 0.8:
            chosen = rng.choice(due)
            self.returns.remove(chosen)
            self.returns.insert(0, chosen)
            self.hold_returns = False
        else:
            self.hold_returns = True

    def descriptor(self) -> int:
        """Some good invalidation, or a wait."""
        rng = self.rng
        am = rng.choice((0, 0, 1, 3, 9, 18))
        return rng.choice((
            page_inv(self.iova() >> 12 + am << 12 + am, am, rng.getrandbits(1), 7 + rng.getrandbits(1)),
            page_inv(self.iova() >> 12 + am << 12 + am, am, rng.getrandbits(1), 7),
            IOTLB_INV.pack(type=2, g=2, did=7), IOTLB_INV.pack(type=2, g=1),
            CONTEXT_INV.pack(type=1, g=rng.randrange(1, 4), did=7, sid=rng.randrange(6), fm=rng.randrange(4)),
            PASID_CACHE_INV.pack(type=7, g=rng.choice((0, 1, 3)), did=7, pasid=rng.getrandbits(1)),
            wait(interrupt=rng.getrandbits(1), fence=rng.getrandbits(1), status_write=rng.getrandbits(1)),
            wait(),
        ))  # fmt: skip

    def run(self, cycles: int) -> None:
        """Drive and check."""
        rng, tail = self.rng, 0
        doorbells = rng.choice((0.002, 0.01, 0.03))
        self.rate, self.readiness = rng.choice((0.2, 0.6, 1.0)), rng.choice((0.3, 0.7, 1.0))
        for _ in range(cycles):
            self.shuffle()
            register = None
            roll = rng.random()
            if roll < doorbells and self.model.register_requests_ready:
                for _ in range(rng.randrange(1, 4)):
                    self.store(0x80_0000 + tail, self.descriptor(), 16)
                    tail = (tail + 16) % 4096
                register = (1, 0x88, tail, 255)
            elif roll < 0.05:
                register = rng.choice((
                    (0, 0x30, 0, 0), (1, 0x30, FSTS.pack(pfo=1, iqe=1) << 32, 240), (1, 0xA0, 0, 15),
                    (1, 0x208 + 16 * rng.randrange(8), 1 << 63, 255), (1, 0x98, 1 << 32, 240),
                    (1, 0x38, rng.getrandbits(1) << 31, 15),
                ))  # fmt: skip
            elif roll < 0.1:
                self.change()
            request = self.request()
            taken = request is not None and self.model.requests_ready
            self.tick(request, register)
            if taken and request is not None:
                self.accepted.append(request)
                self.requested, self.next_tag = None, self.next_tag + 1
            check_invariants(self.model)
        self.rate = 0.0
        self.requested = None
        self.ready = Inputs(None, True, True, True, True, True)
        self.hold_returns = False
        self.idle(400)


def check_invariants(model: CycleModel) -> None:
    """What holds in every cycle: masks, keys, waiting entries."""
    frontend, walker = model._frontend, model._walker
    assert walker.free & (walker.issue | walker.done | walker.killed) == 0
    assert walker.issue & walker.done == 0
    assert frontend.free & (frontend.replay | frontend.answer) == 0
    assert frontend.replay & frontend.answer == 0
    waiting = 0
    for index, slot in enumerate(walker.slots):
        if walker.free >> index & 1:
            continue
        assert waiting & slot.entries == 0
        waiting |= slot.entries
        live = not (walker.done | walker.killed) >> index & 1
        living = [*walker.live_pages.values(), *walker.live_contexts.values()]
        assert sum(mask >> index & 1 for mask in living) == live
        assert not (live and walker.issue >> index & 1 and slot.entries & frontend.late)
        assert slot.entries or walker.killed >> index & 1
        if not walker.done >> index & 1:
            assert slot.entries & frontend.answer == 0
    everything = (1 << len(frontend.entries)) - 1
    assert waiting == everything & ~(frontend.free | frontend.replay)
    assert all((*walker.live_pages.values(), *walker.live_contexts.values()))
    assert waiting & frontend.late & frontend.retried == 0
    chosen = frontend.unbelieved
    if chosen >= 0:
        assert frontend.answer & frontend.late & 1 << chosen
        assert frontend.offered < 0
        assert not model.fields()["completions_valid"]
    assert bool(frontend.answer) == (chosen >= 0 or frontend.offered >= 0)
    if frontend.offered >= 0 and frontend._offered_reason:
        assert not frontend.late >> frontend.offered & 1
    for lines in (
        frontend._contexts.lines,
        frontend._iotlb.lines,
        *(c.lines for c in frontend._pointers.caches),
    ):
        assert len(lines.where) == lines.valid.bit_count()
        assert all(lines.keys[index] == key for key, index in lines.where.items())


KNOBS = [
    {},
    {"walk_slots": 2, "pending_requests": 3, "iotlb_entries": 2, "psc_entries": 1, "context_entries": 1,
     "fault_records": 1},
    {"walk_slots": 1, "pending_requests": 1, "rewalk_on_perm": True},
    {"inval_scope": Architecture.AMD, "psc_scope": Architecture.AMD, "leaf_snp_legal": False},
    {"walk_drain": False, "large_pages": 1},
]  # fmt: skip


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_soak(seed: int, knobs: dict, mode: int) -> None:
    """Every accepted request is answered once, outputs are stable, caches hold no key twice (T1, P1, F3)."""
    soak = Soak(IommuParams(**knobs), latency=1 + seed % 3)
    soak.start(seed * 77 + len(knobs), mode)
    soak.run(2000)
    assert sorted(answer.tag for answer in soak.answers) == sorted(request[0] for request in soak.accepted)
    final = soak.model.fields()
    assert (final["slots_busy"], final["pending_used"], final["slots_killed"]) == (0, 0, 0)
    assert len(soak.accepted) > 40
    assert soak.model._invalidations.unacknowledged == 0
    assert soak.refusals > 10
    assert soak.unbelieved or soak.params.walk_slots < 4, "few requests meet in few slots"


def test_model_is_deterministic_and_observe_changes_nothing() -> None:
    """Two models with the same inputs agree, one of them never observed in between."""
    one, two = CycleModel(IommuParams()), CycleModel(IommuParams())
    rng = random.Random(5)
    for _ in range(300):
        request = (rng.getrandbits(8), 0, 0, 0, rng.getrandbits(40), rng.getrandbits(1))
        inputs = Inputs(request, hits_ready=rng.random() < 0.5)
        one.observe()
        one.step(inputs)
        two.step(inputs)
    assert one.observe() == two.observe()
