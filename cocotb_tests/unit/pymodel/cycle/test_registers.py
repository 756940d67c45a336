"""Register file, event messages and write buffer (R1..R5, M1..M3, P4)."""

import pytest

from pymodel.spec.observation import WriteId
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import EVENT_CONTROL, GCMD, REGISTERS, VERSION

from .bench import QUEUE, ROOT_TABLE, Bench, ready_bench, wait

ONES = (1 << 64) - 1
IM = EVENT_CONTROL["im"].mask


def test_after_reset() -> None:
    """P4."""
    bench = Bench()
    params = bench.params
    expected = {"VER": VERSION, "CAP": params.cap, "ECAP": params.ecap, "FECTL": IM, "IECTL": IM}
    for name in REGISTERS:
        assert bench.read_register(name) == expected.get(name, 0), name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("VER", VERSION),
        ("GCMD", 0),
        ("RTADDR", ONES & ~0x3FF),
        ("FECTL", IM),
        ("FEDATA", 0xFFFF_FFFF),
        ("FEADDR", 0xFFFF_FFFC),
        ("FEUADDR", 0xFFFF_FFFF),
        ("IQH", 0),
        ("IQT", 0x7FFF0),
        ("IQA", ONES & ~0xFFF | 0x807),
        ("IECTL", IM),
        ("IEDATA", 0xFFFF_FFFF),
        ("IEADDR", 0xFFFF_FFFC),
        ("IEUADDR", 0xFFFF_FFFF),
        ("IQER", 0),
        ("FSTS", 0),
        ("ICS", 0),
    ],
)
def test_bits_that_are_kept(name: str, kept: int) -> None:
    """R5."""
    bench = Bench()
    bench.write_register(name, (1 << 8 * REGISTERS[name].size) - 1)
    assert bench.read_register(name) == kept


def test_dw_needs_scalable() -> None:
    """R5."""
    bench = Bench(IommuParams(scalable=False))
    bench.write_register("IQA", ONES)
    assert bench.read_register("IQA") == ONES & ~0xFFF | 7


def test_strobes_select_bytes() -> None:
    """R1: also for a register that shares its lane."""
    bench = Bench()
    bench.access(1, 0x38, 0x1122_3344_0000_0000, 0b1010_0000)
    assert bench.read_register("FEDATA") == 0x1100_3300
    assert bench.read_register("FECTL") == IM
    bench.access(1, 0x3F, 0, 0b0000_1000)
    assert bench.read_register("FECTL") == 0
    bench.access(1, 0x23, 0x0123_4567_89AB_CDEF, 0b0011_1100)
    assert bench.read_register("RTADDR") == 0x4567_89AB_0000


def test_timing_of_an_access() -> None:
    """R1: answered in r+1; no second access while a response waits."""
    bench = Bench()
    bench.ready.register_responses_ready = False
    bench.tick(register=(0, 8, 0, 0))
    assert bench.model.register_responses == bench.params.cap
    assert bench.model.fields()["register_requests_ready"] == 0
    bench.idle(3)
    assert bench.model.register_responses == bench.params.cap
    bench.ready.register_responses_ready = True
    assert bench.tick()["register_requests_ready"] == 0
    assert bench.model.register_requests_ready
    bench.tick(register=(1, 8, ONES, 255))
    assert bench.model.register_responses == 0


def test_gcmd() -> None:
    """R3, R4: byte 3 only; SRTP is what takes RTADDR over."""
    bench = Bench()
    bench.access(1, 0x18, GCMD.pack(te=1), 0b0111)
    assert bench.read_register("GSTS") == 0
    bench.write_register("GCMD", GCMD.pack(te=1, qie=1))
    assert bench.read_register("GSTS") == GCMD.pack(te=1, qie=1)
    bench.write_register("RTADDR", ROOT_TABLE)
    bench.ask(0x1000)
    assert bench.reads[0][2] == 0
    bench.write_register("GCMD", GCMD.pack(te=1, srtp=1))
    assert bench.read_register("GSTS") == GCMD.pack(te=1, srtp=1)
    bench.ask(0x1000)
    assert bench.reads[1][2] == ROOT_TABLE >> 6
    bench.write_register("GCMD", 0)
    assert bench.read_register("GSTS") == GCMD.pack(srtp=1)


def test_unmapped_offsets_read_zero() -> None:
    """R1."""
    bench = Bench(IommuParams(fault_records=1))
    for offset in (0x28, 0x100, 0x210, 0xFF8):
        assert bench.access(0, offset, 0, 0) == 0
        bench.access(1, offset, ONES, 255)


def event_bench(**more) -> Bench:
    """Queue on, both events with address and data, unmasked."""
    bench = ready_bench(queue=True)
    for prefix, number in (("IE", 0x1E), ("FE", 0xFE)):
        bench.write_register(f"{prefix}DATA", number)
        bench.write_register(f"{prefix}ADDR", 0xFEE0_0000 | number << 4)
        bench.write_register(f"{prefix}UADDR", number)
        bench.write_register(f"{prefix}CTL", more.get(prefix, 0))
    return bench


def test_invalidation_event() -> None:
    """M2, M3, R2: IWC rises, one message; no other until IWC was 0."""
    bench = event_bench()
    bench.invalidate(wait(status_write=0, interrupt=1))
    bench.idle(5)
    expected = (WriteId.INVALIDATION_EVENT, 0x1E << 32 | 0xFEE0_01E0, 0x1E)
    assert [write[1:] for write in bench.writes] == [expected]
    bench.invalidate(wait(status_write=0, interrupt=1))
    bench.idle(5)
    assert len(bench.writes) == 1
    assert bench.read_register("ICS") == 1
    bench.write_register("ICS", 1)
    assert bench.read_register("ICS") == 0
    bench.invalidate(wait(status_write=0, interrupt=1))
    bench.idle(5)
    assert len(bench.writes) == 2


def test_event_timing() -> None:
    """M1, M3: IWC is 1 in c, IP in c+1, on the port in c+2."""
    bench = event_bench()
    bench.queue(wait(status_write=0, interrupt=1))
    while not bench.model._registers.completion:
        bench.tick()
    start = bench.cycle
    assert bench.model._registers.invalidation_event.pending == 0
    bench.idle(1)
    assert bench.model._registers.invalidation_event.pending == 1
    bench.idle(5)
    assert bench.writes[-1][0] == start + 2


def test_masked_event_waits_and_is_dropped_without_its_cause() -> None:
    """M2, M3: IM holds the message; IP falls with the cause."""
    bench = event_bench(IE=IM, FE=IM)
    bench.invalidate(wait(status_write=0, interrupt=1))
    bench.legacy(p=0)
    bench.ask(0x1000)
    bench.idle(4)
    assert bench.writes == []
    assert bench.read_register("IECTL") == EVENT_CONTROL.pack(im=1, ip=1)
    assert bench.read_register("FECTL") == EVENT_CONTROL.pack(im=1, ip=1)
    bench.write_register("ICS", 1)
    assert bench.read_register("IECTL") == IM
    bench.write_register("FECTL", 0)
    bench.idle(4)
    assert [write[1:] for write in bench.writes] == [(WriteId.FAULT_EVENT, 0xFE << 32 | 0xFEE0_0FE0, 0xFE)]
    assert bench.read_register("FECTL") == 0


def test_fault_event_rises_once_for_all_causes() -> None:
    """M3: PFO, PPF and IQE share one event."""
    bench = event_bench()
    bench.legacy(p=0)
    bench.ask(0x1000)
    bench.idle(4)
    bench.queue(15)
    bench.idle(20)
    assert bench.read_register("FSTS") & 0x12 == 0x12
    assert [write[1] for write in bench.writes] == [WriteId.FAULT_EVENT]


def test_priority_of_the_write_buffer() -> None:
    """M1: with everything waiting: status, then the invalidation event, then the fault event."""
    bench = event_bench(IE=IM, FE=IM)
    bench.legacy(p=0)
    bench.ask(0x1000)
    bench.invalidate(wait(status_write=0, interrupt=1))
    bench.ready.writes_ready = False
    bench.write_register("FECTL", 0)
    bench.idle(2)
    assert bench.model.writes is not None
    bench.write_register("IECTL", 0)
    bench.queue(wait(data=0x77, address=0x9004))
    bench.idle(20)
    bench.ready.writes_ready = True
    bench.idle(8)
    ids = [write[1] for write in bench.writes]
    assert ids == [WriteId.FAULT_EVENT, WriteId.STATUS, WriteId.INVALIDATION_EVENT]
    assert bench.writes[1][2:] == (0x9004, 0x77)
    cycles = [write[0] for write in bench.writes]
    assert cycles == [cycles[0], cycles[0] + 1, cycles[0] + 2], "loaded in the cycle of the transfer"


def test_hardware_sets_win() -> None:
    """R2: ICS.IWC cleared in the very cycle in which a wait sets it again ends up set."""
    for offset in range(12):
        bench = event_bench(IE=IM)
        bench.invalidate(wait(status_write=0, interrupt=1))
        bench.store(QUEUE + 16, wait(status_write=0, interrupt=1), 16)
        bench.write_register("IQT", 32)
        bench.idle(offset)
        done_before = bench.model._registers.head == 32
        bench.tick(register=(1, 0x98, 1 << 32, 0xF0))
        done_after = bench.model._registers.head == 32
        assert bench.model._registers.completion == int(done_after and not done_before)
