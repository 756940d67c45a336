"""Reset in the middle of a run: what vanishes, what is idle afterwards, and how software starts again."""

from collections.abc import Collection

import pytest

from cocotb_tests.harness.decode import field_places
from cocotb_tests.harness.errors import HarnessError, ProtocolError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.host import RAM, Device, Host
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import JUDGES, LockStep, run_model_lane
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.pins import CONTROL, CONTROL_BITS, RESET_BIT, InputPins
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Scheduler, Translate, Translation
from cocotb_tests.harness.traffic import ListedTraffic
from pymodel.cycle.inputs import Inputs
from pymodel.effects import Delay, Store, WaitFor, WriteRegister
from pymodel.memory import PhysMem
from pymodel.paging.update import map_range
from pymodel.spec.params import PRESETS

PARAMS = PRESETS["small"]
PAGES = 0x40_0000


class Machine:
    """A bench whose software maps other frames after each reset, and reads pages for ever until it is stopped."""

    def __init__(
        self, log: EventLog | None = None, limit: int = 600, judges: Collection[str] = JUDGES
    ) -> None:
        memory = PhysMem([RAM])
        self.bench: LockStep = JobContext(PARAMS, 3, judges, log).lockstep(
            memory=memory, limit=limit, timing=MemoryTiming(latency=9, jitter=5, reorder=True, write_latency=7)
        )
        self.answers: list[Translation] = []
        self.boots = 0
        self.boot()

    @property
    def frame(self) -> int:
        """Where the first page goes, of the last boot."""
        return 0x1_2340_0000 + (self.boots << 20)

    def boot(self) -> None:
        self.boots += 1
        for page in list(self.bench.memory.pages()):
            self.bench.memory.clear_page(page)
        host = Host(PARAMS, self.bench.memory)
        domain = host.domain(5)
        host.build(map_range(domain.table, PAGES, self.frame, 16 << 12, max_level=0))
        device = Device(0x0300, domain=domain)
        host.build(host.attach(device))
        now = self.bench.now

        def software() -> BenchAgent[None]:
            yield from host.start()
            while not self.bench.stopping:
                answer = yield Answer((yield Translate(device.sid, PAGES)))
                self.answers.append(answer)
                yield from host.sync(host.global_descriptor(), interrupt=1, fence=1)

        self.bench.scheduler.add("software", software(), start=now + 2)
        requests = (Translate(device.sid, PAGES + (number % 20 << 12)) for number in range(1 << 30))
        self.bench.add_source(ListedTraffic(requests, start=now + 30, interval=3))


@pytest.mark.parametrize("at", [1, 2, 7, *range(40, 120, 3)])
def test_software_starts_again_after_a_reset_at_any_moment(at: int) -> None:
    machine = Machine()
    machine.bench.reset_at(at, machine.boot, 1 + at % 3)
    summary = run_model_lane(machine.bench)
    statistics = summary["statistics"]
    assert statistics["resets"] == 1
    assert statistics["accepted"] == statistics["answers"] + statistics["lost"]
    frames = [one.address for one in machine.answers]
    assert frames == sorted(frames)
    assert frames[-1] == machine.frame == 0x1_2340_0000 + (2 << 20)


def test_requests_that_were_open_are_lost_and_the_log_says_so() -> None:
    log = EventLog()
    machine = Machine(log)
    machine.bench.reset_at(60, machine.boot, 4)
    machine.bench.reset_at(300, machine.boot)
    for _ in range(62):
        model = machine.bench.model
        assert model is not None
        machine.bench.cycle(model.observe())
    lost = machine.bench.statistics.lost
    assert lost > 0
    assert f"60 reset requests={lost} cycles=4" in log.tail()
    assert machine.bench.open == {}
    statistics = run_model_lane(machine.bench)["statistics"]
    assert statistics["resets"] == 2
    assert machine.boots == 3


@pytest.mark.parametrize("length", [1, 3])
def test_output_that_is_not_idle_after_reset_is_found_by_the_protocol_checkers_alone(length: int) -> None:
    machine = Machine()
    model = machine.bench.model
    assert model is not None
    machine.bench.reset_at(60, machine.boot, length)
    follower = Machine(judges=("protocol",))
    follower.bench.reset_at(60, follower.boot, length)
    for _ in range(61):
        obs = model.observe()
        machine.bench.cycle(obs)
        follower.bench.cycle(obs)
    with pytest.raises(ProtocolError, match=r"rule P4: .* wrong: queue_enabled") as caught:
        follower.bench.cycle(model.observe() | obs & 1 << field_places(PARAMS)["queue_enabled"][0])
    assert caught.value.cycle == 61


def test_run_that_drains_is_not_reset() -> None:
    machine = Machine(limit=100)
    machine.bench.reset_at(104, machine.boot)
    assert run_model_lane(machine.bench)["statistics"]["resets"] == 0


def test_wrong_order_of_resets_is_refused() -> None:
    machine = Machine()
    machine.bench.reset_at(60, machine.boot, 4)
    for cycle, length in ((0, 1), (64, 1), (70, 0)):
        with pytest.raises(HarnessError, match="must come after what was asked for before"):
            machine.bench.reset_at(cycle, machine.boot, length)
    machine.bench.reset_at(65, machine.boot)


def test_reset_ends_agents_where_they_stand() -> None:
    ended = []

    def agent() -> BenchAgent[None]:
        try:
            yield Store(64, 1)
            yield WaitFor(128, 1, 1)
        finally:
            ended.append("agent")

    def others() -> BenchAgent[None]:
        yield WriteRegister(0x18, 1)

    scheduler = Scheduler(PhysMem(), lambda event: None)
    scheduler.add("agent", agent())
    scheduler.add("others", others())
    scheduler.add("later", agent(), start=50)
    scheduler.run(0)
    scheduler.run(1)
    assert scheduler.accesses
    scheduler.clear(2)
    assert ended == ["agent"]  # the one that had not begun has nothing to end
    assert (scheduler.unfinished, list(scheduler.accesses), scheduler.runs) == (0, [], [])
    assert scheduler.due == float("inf")

    def again() -> BenchAgent[None]:
        yield Delay(2)

    scheduler.add("again", again(), start=0)
    assert scheduler.due == 3


def test_reset_is_one_bit_of_the_control_port_and_silences_the_others() -> None:
    pins = InputPins(PARAMS)
    pins.load(Inputs(reads_ready=True, write_ack=2, reset=True))
    assert pins.control == 1 << RESET_BIT
    assert RESET_BIT == len(CONTROL) + 2 == CONTROL_BITS - 1
    pins.load(Inputs(reads_ready=True))
    assert pins.control == 1 << CONTROL.index("reads_ready")
