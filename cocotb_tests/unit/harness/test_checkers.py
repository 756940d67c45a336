"""Every protocol checker accepts a legal trace and catches its broken twin."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocotb_tests.harness.answers import Answers
from cocotb_tests.harness.checkers import ProtocolChecker, ReadIds, Registers, Stream, Writes
from cocotb_tests.harness.errors import ProtocolError
from pymodel.cycle.inputs import Inputs
from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup, QueueState, WriteId
from pymodel.spec.params import PRESETS

ROOT = Path(__file__).resolve().parents[3]
PARAMS = PRESETS["small"]
REQUEST = (5, 0x300, 0, 0, 0x4321, 0)
ANSWER = (5, 0, 0x9321, 0, 1, 1, 0)
FAULT = (5, Reason.READ_DENIED, 0, 0, 0, 0, 0)


def stream(*offers: tuple[object, int]) -> None:
    checker = Stream("hits")
    for cycle, (payload, ready) in enumerate(offers):
        checker.offer(cycle, payload, ready)


def read_ids(*steps: tuple[str, int]) -> None:
    checker = ReadIds(PARAMS)
    for cycle, (what, number) in enumerate(steps):
        getattr(checker, what)(cycle, number)


def writes(*steps: tuple[str, Any]) -> None:
    checker = Writes()
    for cycle, (what, value) in enumerate(steps):
        getattr(checker, what)(cycle, value)


def registers(*cycles: tuple[int, int | None, int | None]) -> None:
    """(ready, response, write flag of an access accepted or None); responses are always taken."""
    checker = Registers()
    for cycle, (ready, response, access) in enumerate(cycles):
        checker.cycle(cycle, ready, response)
        if response is not None:
            checker.taken()
        if access is not None:
            checker.accepted(cycle, access)


def answers(*steps: tuple[int, str, Any]) -> None:
    checker = Answers(PARAMS)
    for cycle, what, value in steps:
        if what == "accepted":
            checker.accepted(cycle, value)
        elif what == "finish":
            checker.finish(cycle)
        else:
            checker.answered(cycle, what, value)


CASES: list[tuple[str, str, Callable[..., None], tuple[Any, ...], tuple[Any, ...]]] = [
    ("payload changes", "P1", stream, ((ANSWER, 0), (ANSWER, 1)), ((ANSWER, 0), (FAULT, 1))),
    ("valid falls", "P1", stream, ((ANSWER, 0), (ANSWER, 1), (None, 1)), ((ANSWER, 0), (None, 1))),
    ("id reused", "P3", read_ids, (("read", 0), ("data", 0), ("read", 0)), (("read", 0), ("read", 0))),
    ("id too high", "P3", read_ids, (("read", 2),), (("read", 3),)),
    ("data without read", "P3", read_ids, (("read", 1), ("data", 1)), (("read", 1), ("data", 0))),
    ("write source", "M1", writes, (("write", (2, 64, 1)),), (("write", (3, 64, 1)),)),
    ("write alignment", "M1", writes, (("write", (0, 64, 1)),), (("write", (0, 66, 1)),)),
    (
        "ack order",
        "P3",
        writes,
        (("write", (0, 0, 1)), ("write", (1, 0, 1)), ("ack", 0), ("ack", 1)),
        (("write", (0, 0, 1)), ("write", (1, 0, 1)), ("ack", 1)),
    ),
    ("late register answer", "R1", registers, ((1, None, 0), (0, 7, None)), ((1, None, 0), (1, None, None))),
    ("register answer for nothing", "R1", registers, ((1, None, None),), ((0, 7, None),)),
    (
        "register ready while answering",
        "R1",
        registers,
        ((1, None, 0), (0, 7, None)),
        ((1, None, 0), (1, 7, None)),
    ),
    ("register write answered", "R1", registers, ((1, None, 1), (0, 0, None)), ((1, None, 1), (0, 7, None))),
    (
        "answer for nothing",
        "L4",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((2, "hits", ANSWER),),
    ),
    (
        "answered twice",
        "L4",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((0, "accepted", REQUEST), (2, "hits", ANSWER), (3, "completions", ANSWER)),
    ),
    (
        "answer too early",
        "L7",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((0, "accepted", REQUEST), (1, "hits", ANSWER)),
    ),
    (
        "fault with an address",
        "L5",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", FAULT)),
        ((0, "accepted", REQUEST), (2, "hits", (5, Reason.READ_DENIED, 0x9000, 0, 0, 0, 0))),
    ),
    (
        "unknown reason",
        "L5",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", FAULT)),
        ((0, "accepted", REQUEST), (2, "hits", (5, 0x2F, 0, 0, 0, 0, 0))),
    ),
    (
        "walk fault at lookup",
        "L2",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", FAULT)),
        ((0, "accepted", REQUEST), (2, "hits", (5, Reason.ROOT_NOT_PRESENT, 0, 0, 0, 0, 0))),
    ),
    (
        "lookup fault after a walk",
        "C2",
        answers,
        ((0, "accepted", REQUEST), (9, "completions", FAULT)),
        ((0, "accepted", REQUEST), (9, "completions", (5, Reason.ADDRESS_BEYOND_WIDTH, 0, 0, 0, 0, 0))),
    ),
    (
        "offset lost",
        "L5",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((0, "accepted", REQUEST), (2, "hits", (5, 0, 0x9322, 0, 1, 1, 0))),
    ),
    (
        "level too high",
        "L5",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((0, "accepted", REQUEST), (2, "hits", (5, 0, 0x4321, 3, 1, 1, 0))),
    ),
    (
        "no permission",
        "L5",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER)),
        ((0, "accepted", REQUEST), (2, "hits", (5, 0, 0x9321, 0, 0, 1, 0))),
    ),
    (
        "answer lost",
        "C1",
        answers,
        ((0, "accepted", REQUEST), (2, "hits", ANSWER), (9, "finish", 0)),
        ((0, "accepted", REQUEST), (9, "finish", 0)),
    ),
]


@pytest.mark.parametrize(
    ("rule", "check", "legal", "twin"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_checker_accepts_the_legal_trace_and_catches_its_twin(
    rule: str, check: Callable[..., None], legal: tuple[Any, ...], twin: tuple[Any, ...]
) -> None:
    check(*legal)
    with pytest.raises(ProtocolError) as caught:
        check(*twin)
    assert caught.value.rule == rule


def idle() -> tuple[Any, ...]:
    return (1, 1, None, None, None, None, None)


def test_combined_checker_follows_a_hit_through_the_ports() -> None:
    checker, inputs = ProtocolChecker(PARAMS), Inputs(hits_ready=True)
    inputs.request = REQUEST
    checker.cycle(0, idle(), inputs)
    inputs.request = None
    checker.cycle(1, idle(), inputs)
    checker.looked_up(1, Lookup.HIT, 0, 0, 0)
    checker.cycle(2, (1, 1, ANSWER, None, None, None, None), inputs)
    checker.finish(3)


@pytest.mark.parametrize("port", range(2, 7))
def test_combined_checker_watches_the_stability_of_every_output(port: int) -> None:
    payload: Any = {2: ANSWER, 3: ANSWER, 4: (0, 9), 5: (0, 64, 1), 6: 0}[port]
    other: Any = {2: FAULT, 3: FAULT, 4: (0, 8), 5: (0, 64, 2), 6: 1}[port]
    for second, broken in ((payload, False), (other, True), (None, True)):
        checker, inputs = ProtocolChecker(PARAMS), Inputs()
        if port == 6:
            inputs.register_request = (0, 0, 0, 0)
            checker.cycle(0, idle(), inputs)
            inputs.register_request = None
        if port == 5:
            checker.waits.due = payload
        out = list(idle())
        out[port] = payload
        out[1] = int(port != 6)
        checker.cycle(1, tuple(out), inputs)  # type: ignore[arg-type]
        out[port] = second
        out[1] = int(port != 6 or second is None)
        if broken:
            with pytest.raises(ProtocolError, match="rule P1"):
                checker.cycle(2, tuple(out), inputs)  # type: ignore[arg-type]
        else:
            checker.cycle(2, tuple(out), inputs)  # type: ignore[arg-type]


def test_combined_checker_reports_what_is_open_at_the_end() -> None:
    for field, out, rule in (
        ("reads_ready", (1, 1, None, None, (0, 9), None, None), "P3"),
        ("writes_ready", (1, 1, None, None, None, (0, 64, 1), None), "P3"),
    ):
        checker, inputs = ProtocolChecker(PARAMS), Inputs()
        setattr(inputs, field, True)
        checker.waits.due = out[5]  # type: ignore[assignment]
        checker.cycle(0, out, inputs)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError) as caught:
            checker.finish(1)
        assert caught.value.rule == rule


def test_hits_that_were_looked_up_and_never_taken_are_reported() -> None:
    checker, inputs = ProtocolChecker(PARAMS), Inputs()
    inputs.request = REQUEST
    checker.cycle(0, idle(), inputs)
    checker.answers.outstanding.clear()
    checker.looked_up(1, Lookup.HIT, 0, 0, 0)
    with pytest.raises(ProtocolError, match="rule F2"):
        checker.finish(9)


def outputs(**ports: Any) -> Any:
    """`idle` with some ports changed."""
    names = ("requests_ready", "register_requests_ready", "hits", "completions", "reads", "writes")
    return tuple(ports.get(name, value) for name, value in zip((*names, "register_responses"), idle(), strict=True))


def test_combined_checker_follows_reads_of_slots_and_queue() -> None:
    checker, inputs = ProtocolChecker(PARAMS), Inputs(reads_ready=True)
    for tag in range(2):
        inputs.request = (tag, *REQUEST[1:])
        checker.cycle(tag, idle(), inputs)
    inputs.request = None
    checker.looked_up(1, Lookup.WALK, 0, 0, 0)
    inputs.reads_ready = False
    checker.cycle(2, outputs(reads=(0, 9)), inputs)
    checker.looked_up(2, Lookup.WALK, 0, 1, 1)
    checker.queue_state(3, QueueState.FETCH, 0)
    inputs.reads_ready = True
    checker.cycle(3, outputs(reads=(0, 9)), inputs)  # offered before the queue wanted to read
    with pytest.raises(ProtocolError, match="rule W2: slot 1 reads although the queue engine"):
        checker.cycle(4, outputs(reads=(1, 9)), inputs)


@pytest.mark.parametrize("wants", ["slot", "queue"])
def test_combined_checker_notices_that_nothing_is_read(wants: str) -> None:
    checker, inputs = ProtocolChecker(PARAMS), Inputs()
    inputs.request = REQUEST
    checker.cycle(0, idle(), inputs)
    inputs.request = None
    if wants == "slot":
        checker.looked_up(1, Lookup.WALK, 0, 0, 1)
    else:
        checker.queue_state(2, QueueState.FETCH, 0)
    with pytest.raises(ProtocolError, match=r"rule W2: .* must read, but no read is offered"):
        checker.cycle(2, idle(), inputs)


def test_combined_checker_asks_for_the_status_write_of_a_wait_and_for_no_other() -> None:
    write = (WriteId.STATUS, 64, 7)
    for wait, found, rule in ((True, None, "M1"), (True, write, ""), (False, write, "M1")):
        checker, inputs = ProtocolChecker(PARAMS), Inputs()
        if wait:
            checker.waits.line = 7 << 32 | 0x25 | 16 << 66
            checker.queue_state(3, QueueState.DECODE, 0)
            checker.queue_state(4, QueueState.WAIT, 0)
            checker.queue_state(5, QueueState.STATUS, 0)
            checker.queue_state(6, QueueState.IDLE, 16)
        if rule:
            with pytest.raises(ProtocolError, match=f"rule {rule}"):
                checker.cycle(6, outputs(writes=found), inputs)
        else:
            checker.cycle(6, outputs(writes=found), inputs)
            checker.cycle(7, outputs(writes=found), inputs)  # held


def test_combined_checker_asks_for_the_message_of_a_fault_once_it_is_unmasked() -> None:
    for sent in (True, False):
        checker, inputs = ProtocolChecker(PARAMS), Inputs(register_responses_ready=True)
        checker.fault_status(3, 1)
        inputs.register_request = (1, 0x38, 0, 0xFF)  # FECTL.IM = 0, in effect from cycle 5 on
        checker.cycle(4, idle(), inputs)
        inputs.register_request = None
        checker.cycle(5, outputs(register_requests_ready=0, register_responses=0), inputs)
        if sent:
            checker.cycle(6, outputs(writes=(WriteId.FAULT_EVENT, 0, 0)), inputs)
        else:
            with pytest.raises(ProtocolError, match="rule M2: FAULT_EVENT was wanted"):
                checker.cycle(6, idle(), inputs)


def test_the_contract_names_exactly_the_rules_that_have_a_checker() -> None:
    """docs/timing.md says which rules the passive checkers hold; each of them is numbered there."""
    contract = (ROOT / "docs" / "timing.md").read_text(encoding="utf-8")
    sentence = re.search(r"^Passive checkers .* hold ([A-Z0-9, and\n]+) on\s+the ports", contract, flags=re.M)
    assert sentence is not None
    cited = {
        node.value
        for name in ("answers", "checkers", "ledger", "lockstep", "messages", "turns", "waits")
        for node in ast.walk(ast.parse((ROOT / "cocotb_tests" / "harness" / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[A-Z]\d+", node.value)
    }
    assert set(re.findall(r"[A-Z]\d+", sentence[1])) == cited
    assert cited <= set(re.findall(r"^- \*\*([A-Z]\d+)\*\*", contract, flags=re.M))
