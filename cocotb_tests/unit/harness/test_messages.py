"""Event messages: sent when wanted, once, as written, not while masked; a legal trace and its broken twins."""

from collections.abc import Callable

import pytest

from cocotb_tests.harness.errors import ProtocolError
from cocotb_tests.harness.messages import Messages
from pymodel.spec.observation import WriteId
from pymodel.spec.registers import REGISTERS

IM = 1 << 31
FAULT, COMPLETION = WriteId.FAULT_EVENT, WriteId.INVALIDATION_EVENT


def write(checker: Messages, cycle: int, register: str, value: int, bytes_: int = 4) -> None:
    offset = REGISTERS[register].offset
    lane = offset & 7
    checker.register_write(cycle, offset, value << 8 * lane, (1 << bytes_) - 1 << lane)


def unmasked() -> Messages:
    """Both messages set up in cycles 1..8."""
    checker = Messages()
    for prefix, data in (("FE", 0x4041), ("IE", 0x5051)):
        write(checker, 1, prefix + "CTL", 0)
        write(checker, 3, prefix + "DATA", data)
        write(checker, 5, prefix + "ADDR", 0xFEE0_1003)  # bits 1:0 stay 0
        write(checker, 7, prefix + "UADDR", 0x12)
    return checker


RIGHT = {FAULT: (FAULT, 0x12_FEE0_1000, 0x4041), COMPLETION: (COMPLETION, 0x12_FEE0_1000, 0x5051)}


def test_message_comes_one_cycle_after_its_cause_rose_or_when_the_buffer_is_free() -> None:
    for sent in (22, 25):
        checker = unmasked()
        checker.fault_cause(20, True)
        checker.watch(21, None, empty=True)
        for cycle in range(22, sent):
            checker.watch(cycle, None, empty=False)  # another write is held
        watched = [checker.watched]
        checker.watch(sent, RIGHT[FAULT], empty=False)
        watched.append(checker.watched)
        checker.watch(sent + 1, None, empty=True)
        assert watched == [True, False]


def test_completion_rises_with_iwc_and_again_only_after_software_cleared_it() -> None:
    checker = unmasked()
    checker.completed(20)
    checker.watch(22, RIGHT[COMPLETION], empty=False)
    checker.completed(30)  # IWC is 1 already
    checker.watch(32, None, empty=True)
    write(checker, 40, "ICS", 1, bytes_=1)
    checker.completed(41)  # in the cycle of the clear: IWC stays 1
    checker.watch(43, None, empty=True)
    write(checker, 50, "ICS", 1)
    checker.completed(52)
    with pytest.raises(ProtocolError, match="rule M2: INVALIDATION_EVENT was wanted"):
        checker.watch(54, None, empty=True)


def masked(checker: Messages) -> None:
    write(checker, 18, "FECTL", IM)
    checker.fault_cause(20, True)
    checker.watch(22, RIGHT[FAULT], empty=False)


def masked_by_reset(_: Messages) -> None:
    checker = Messages()
    checker.fault_cause(20, True)
    checker.watch(22, (FAULT, 0, 0), empty=False)


def no_cause(checker: Messages) -> None:
    checker.watch(22, RIGHT[FAULT], empty=False)


def too_early(checker: Messages) -> None:
    checker.fault_cause(20, True)
    checker.watch(21, RIGHT[FAULT], empty=False)


def twice(checker: Messages) -> None:
    checker.fault_cause(20, True)
    checker.watch(22, RIGHT[FAULT], empty=False)
    checker.watch(23, RIGHT[FAULT], empty=False)


def cause_over(checker: Messages) -> None:
    checker.fault_cause(20, True)
    checker.fault_cause(22, False)
    checker.watch(24, RIGHT[FAULT], empty=False)


def lost(checker: Messages) -> None:
    checker.fault_cause(20, True)
    checker.watch(22, None, empty=True)


def lost_while_masked(checker: Messages) -> None:
    write(checker, 18, "FECTL", IM)
    checker.fault_cause(20, True)
    write(checker, 30, "FECTL", 0)
    checker.watch(32, None, empty=True)


def wrong_data(checker: Messages) -> None:
    checker.fault_cause(20, True)
    checker.watch(22, (FAULT, 0x12_FEE0_1000, 0x4042), empty=False)


def old_address(checker: Messages) -> None:
    write(checker, 18, "FEADDR", 0xFEE0_2000)
    checker.fault_cause(20, True)
    checker.watch(22, RIGHT[FAULT], empty=False)


def overtaken(checker: Messages) -> None:
    checker.completed(20)
    checker.fault_cause(20, True)
    checker.watch(22, RIGHT[FAULT], empty=False)


@pytest.mark.parametrize(
    ("rule", "text", "twin"),
    [
        ("M2", "although it is masked", masked), ("M2", "although it is masked", masked_by_reset),
        ("M2", "although it is not pending", no_cause), ("M2", "although it is not pending", too_early),
        ("M2", "although it is not pending", twice), ("M2", "although it is not pending", cause_over),
        ("M2", "FAULT_EVENT was wanted", lost), ("M2", "FAULT_EVENT was wanted", lost_while_masked),
        ("M2", "must be 0x4041 to 0x12fee01000", wrong_data), ("M2", "must be 0x4041 to 0x12fee02000", old_address),
        ("M1", "INVALIDATION_EVENT was wanted", overtaken),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_broken_twin_is_caught(rule: str, text: str, twin: Callable[[Messages], None]) -> None:
    with pytest.raises(ProtocolError, match=text) as caught:
        twin(unmasked())
    assert caught.value.rule == rule


def test_what_is_written_holds_from_the_next_cycle_on() -> None:
    """A message that is loaded in the cycle of the write carries the value before it, and is sent although masked."""
    checker = unmasked()
    checker.fault_cause(20, True)
    write(checker, 21, "FEDATA", 0x7777)
    checker.watch(22, RIGHT[FAULT], empty=False)
    checker = unmasked()
    checker.fault_cause(20, True)
    write(checker, 21, "FECTL", IM)
    checker.watch(22, RIGHT[FAULT], empty=False)


def test_message_of_the_rise_before_may_come_while_the_cause_rises_again() -> None:
    checker = unmasked()
    checker.fault_cause(20, True)
    checker.watch(22, None, empty=False)
    checker.fault_cause(23, False)
    checker.fault_cause(24, True)
    checker.watch(24, RIGHT[FAULT], empty=False)  # loaded in 23, when IP was still 1
    checker.watch(26, RIGHT[FAULT], empty=False)


def test_bytes_that_are_not_strobed_keep_their_value() -> None:
    checker = unmasked()
    write(checker, 18, "FEDATA", 0xFF99, bytes_=1)
    checker.fault_cause(20, True)
    checker.watch(22, (FAULT, 0x12_FEE0_1000, 0x4099), empty=False)
