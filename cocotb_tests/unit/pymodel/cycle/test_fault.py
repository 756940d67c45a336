"""The fault log (M4, R2)."""

from pymodel.cycle.fault import FaultLog
from pymodel.spec.faults import FAULT_RECORD
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FSTS

from .bench import Bench, ready_bench

WRITE_REQUEST = (1, 0x1234, 1, 0x77, 0xABCDE_F123, 1)
READ_REQUEST = (2, 0x4321, 0, 0x55, 0x1000, 0)


def test_record_of_a_request() -> None:
    """M4: fields of a record, with and without PASID."""
    log = FaultLog(IommuParams())
    log.report(WRITE_REQUEST, 5)
    log.report(READ_REQUEST, 6)
    assert log.commit() == 2
    first, second = (FAULT_RECORD.unpack(record) for record in log.records[:2])
    names = ("address", "sid", "pasid_present", "reason", "pasid", "at", "t", "f")
    assert first == dict(zip(names, (0xABCDE_F, 0x1234, 1, 5, 0x77, 0, 0, 1), strict=True))
    assert second == dict(zip(names, (1, 0x4321, 0, 6, 0, 0, 1, 1), strict=True))
    assert (log.index, log.next, log.pending) == (0, 2, 3)


def test_overflow_drops_and_the_second_fault_sees_it() -> None:
    """M4: the next record with F=1 sets PFO; while PFO is 1 everything is dropped."""
    log = FaultLog(IommuParams(fault_records=2))
    for _ in range(2):
        log.report(READ_REQUEST, 6)
    assert log.commit() == 2
    log.report(READ_REQUEST, 6)
    assert (log.commit(), log.overflow) == (0, 1)
    log.clear = 3
    log.commit()
    log.report(READ_REQUEST, 6)
    assert (log.commit(), log.pending) == (0, 0)
    log.clear_overflow = 1
    log.report(READ_REQUEST, 6)
    assert log.commit() == 0, "PFO was 1 at the start of the cycle"
    log.report(READ_REQUEST, 6)
    assert (log.commit(), log.pending, log.index) == (1, 1, 0)


def test_fri_is_the_record_that_was_written_first() -> None:
    """M4: FRI moves only when no record had F=1."""
    log = FaultLog(IommuParams(fault_records=4))
    log.report(READ_REQUEST, 6)
    log.commit()
    log.clear = 1
    log.commit()
    log.report(READ_REQUEST, 6)
    log.report(READ_REQUEST, 6)
    log.commit()
    assert (log.index, log.pending) == (1, 0b110)


def test_record_and_status_through_the_registers() -> None:
    """M4, R2: a fault is seen in FSTS and in the record, and F is cleared by writing 1."""
    bench = ready_bench(Bench().params)
    bench.legacy(p=0)
    answer = bench.ask(0x1000, write=1)
    assert answer.reason == 2
    bench.tick()
    assert FSTS.unpack(bench.read_register("FSTS")) == {"pfo": 0, "ppf": 1, "iqe": 0, "fri": 0}
    low, high = bench.access(0, 0x200, 0, 0), bench.access(0, 0x208, 0, 0)
    record = FAULT_RECORD.unpack(low | high << 64)
    assert (record["reason"], record["address"], record["t"], record["f"]) == (2, 1, 0, 1)
    bench.access(1, 0x208, 1 << 63, 0x7F)
    assert bench.read_register("FSTS") == 2, "byte 7 was not strobed"
    bench.access(1, 0x208, 1 << 63, 0x80)
    assert bench.read_register("FSTS") == 0
    assert bench.access(0, 0x208, 0, 0) == high & ~(1 << 63)


def test_fpd_suppresses_records() -> None:
    """W6: FPD counts also when P is 0."""
    bench = ready_bench()
    bench.legacy(p=0, fpd=1)
    assert bench.ask(0x1000).reason == 2
    bench.idle(3)
    assert bench.read_register("FSTS") == 0
