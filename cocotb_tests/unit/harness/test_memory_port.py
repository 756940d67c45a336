"""The memory behind the ports: latency, order, sample points, errors, writes."""

import pytest

from cocotb_tests.harness.memory_port import MemoryPort, MemoryTiming, Sample
from pymodel.memory import PhysMem

RAM = (0x1000, 0x9000)


def drive(port: MemoryPort, reads: dict[int, tuple[int, int]], cycles: int, memory: PhysMem | None = None,
          stores: dict[int, tuple[int, int]] | None = None) -> list[tuple[int, int, int, int]]:  # fmt: skip
    """Offer each read from its cycle on until it is accepted; return (cycle, id, error, data) of what came
    back."""
    got, waiting = [], sorted(reads.items())
    for cycle in range(cycles):
        if memory is not None and stores is not None and cycle in stores:
            memory.store(*stores[cycle])
        offer = waiting[0][1] if waiting and waiting[0][0] <= cycle else None
        took, _ = port.step(cycle, offer, None)
        if took:
            waiting.pop(0)
        if port.read_data is not None:
            got.append((cycle, *port.read_data))
    return got


@pytest.mark.parametrize("latency", [1, 2, 17])
def test_read_returns_after_the_latency_with_the_line(latency: int) -> None:
    memory = PhysMem([RAM])
    memory.store(0x1048, 0x1234)
    port = MemoryPort(memory, MemoryTiming(latency=latency), 0)
    got = drive(port, {3: (2, 0x1040 >> 6)}, 40)
    assert got == [(3 + latency, 2, 0, 0x1234 << 64)]


def test_back_to_back_reads_return_one_a_cycle() -> None:
    port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=5), 0)
    got = drive(port, {cycle: (cycle, 0x40) for cycle in range(6)}, 20)
    assert [(cycle, number) for cycle, number, _, _ in got] == [(cycle + 5, cycle) for cycle in range(6)]


def test_read_outside_of_ram_is_an_error() -> None:
    port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=1), 0)
    assert [entry[1:3] for entry in drive(port, {0: (1, 0x20)}, 4)] == [(1, 1)]
    assert port.errors == 1


@pytest.mark.parametrize(
    ("sample", "store_at", "value"),
    [
        (Sample.AT_ACCEPT, 1, 0),
        (Sample.AT_ACCEPT, 0, 7),
        (Sample.AT_RETURN, 10, 7),
        (Sample.AT_RETURN, 11, 0),
    ],
)
def test_value_is_taken_at_the_sample_point(sample: Sample, store_at: int, value: int) -> None:
    memory = PhysMem([RAM])
    port = MemoryPort(memory, MemoryTiming(latency=10, sample=sample), 0)
    got = drive(port, {0: (0, 0x1000 >> 6)}, 20, memory, {store_at: (0x1000, 7)})
    assert got == [(10, 0, 0, value)]


def test_random_sample_point_sees_old_and_new_values() -> None:
    seen = set()
    for seed in range(40):
        memory = PhysMem([RAM])
        port = MemoryPort(memory, MemoryTiming(latency=10, sample=Sample.RANDOM), seed)
        seen.add(drive(port, {0: (0, 0x1000 >> 6)}, 20, memory, {5: (0x1000, 7)})[0][3])
    assert seen == {0, 7}


def test_reordering_changes_the_order_and_loses_nothing() -> None:
    orders = set()
    for seed in range(10):
        port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=3, jitter=20, reorder=True), seed)
        got = drive(port, {cycle: (cycle, 0x40) for cycle in range(8)}, 60)
        assert sorted(number for _, number, _, _ in got) == list(range(8))
        orders.add(tuple(number for _, number, _, _ in got))
        assert not port.busy
    assert len(orders) > 5


def test_jitter_without_reordering_keeps_the_order() -> None:
    port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=3, jitter=20), 5)
    got = drive(port, {cycle: (cycle, 0x40) for cycle in range(8)}, 80)
    assert [number for _, number, _, _ in got] == list(range(8))


def test_same_seed_gives_the_same_memory() -> None:
    timing = MemoryTiming(latency=3, jitter=9, reorder=True, stall_percent=40, sample=Sample.RANDOM)
    runs = [
        drive(MemoryPort(PhysMem([RAM]), timing, 9), {c: (c, 0x40) for c in range(20)}, 200) for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != drive(MemoryPort(PhysMem([RAM]), timing, 10), {c: (c, 0x40) for c in range(20)}, 200)


def test_stalls_hold_reads_back() -> None:
    port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=1, stall_percent=50), 1)
    got = drive(port, {cycle: (cycle, 0x40) for cycle in range(50)}, 200)
    assert got[-1][0] > 70


def test_write_changes_memory_before_its_ack_and_acks_come_in_order() -> None:
    memory = PhysMem([RAM])
    told: list[tuple[int, int, int, int]] = []
    port = MemoryPort(memory, MemoryTiming(write_latency=6), 3, lambda *event: told.append(event))
    acks = []
    for cycle in range(30):
        write = {0: (0, 0x1000, 11), 1: (2, 0x1004, 22), 2: (1, 0xFEE0_0000, 33)}.get(cycle)
        _, took = port.step(cycle, None, write)
        assert took == (write is not None)
        if port.write_ack is not None:
            acks.append((cycle, port.write_ack))
    assert acks == [(6, 0), (7, 2), (8, 1)]
    assert memory.load(0x1000) == 22 << 32 | 11
    assert [event[1:] for event in told] == [(0, 0x1000, 11), (2, 0x1004, 22), (1, 0xFEE0_0000, 33)]
    assert all(event[0] <= ack[0] for event, ack in zip(told, acks, strict=True))


@pytest.mark.parametrize("reorder", [False, True])
def test_reset_forgets_reads_and_carries_writes_out(reorder: bool) -> None:
    """P5: no data and no ack of what was accepted before; writes that were accepted change memory."""
    memory = PhysMem([RAM])
    timing = MemoryTiming(latency=5, jitter=3, reorder=reorder, write_latency=20, sample=Sample.RANDOM)
    told: list[tuple[int, int, int, int]] = []
    port = MemoryPort(memory, timing, 3, lambda *event: told.append(event))
    for cycle in range(3):
        port.step(cycle, (cycle, 0x40), (0, 0x1000 + 4 * cycle, cycle + 1))
    port.reset(3)
    states = [port.due, port.busy]
    assert [memory.load(0x1000), memory.load(0x1008)] == [2 << 32 | 1, 3]
    assert [event[2] for event in told] == [0x1000, 0x1004, 0x1008]
    for cycle in range(4, 60):
        port.step(cycle, None, None)
        assert port.read_data is None
        assert port.write_ack is None
    assert states == [float("inf"), False]
    assert drive(port, {0: (1, 0x40)}, 20)[0][1:] == (1, 0, 3 << 64 | 2 << 32 | 1)


def test_idle_port_says_so() -> None:
    port = MemoryPort(PhysMem([RAM]), MemoryTiming(latency=2), 0)
    seen = [(port.due, port.read_data)]
    for cycle, offer in ((0, (0, 0x40)), (2, None), (3, None)):
        port.step(cycle, offer, None)
        seen.append((port.due, port.read_data))
    never = float("inf")
    assert seen == [(never, None), (2, None), (0, (0, 0, 0)), (never, None)]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("latency", 0, "latencies must be at least 1"), ("jitter", -1, "jitter must not be negative"),
     ("stall_percent", 100, "stall_percent must be in 0..95, not 100")],
)  # fmt: skip
def test_wrong_timing_is_named(field: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryTiming(**{field: value})  # type: ignore[arg-type]
