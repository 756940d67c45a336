"""Agents and the effects they yield."""

from typing import Any

import pytest

from pymodel.effects import (
    Agent,
    CompareExchange,
    Delay,
    Effect,
    Event,
    FetchAnd,
    FetchOr,
    Load,
    ReadRegister,
    Store,
    Unsatisfied,
    WaitFor,
    WriteRegister,
    apply,
    changed,
    run_untimed,
)
from pymodel.memory import PhysMem, SparseMem


class _Registers:
    """Registers that remember what was written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def write(self, offset: int, value: int, size: int) -> None:
        self.written.append((offset, value, size))

    def read(self, offset: int, size: int) -> int:
        return offset << 8 | size


@pytest.mark.parametrize("memory", [PhysMem(), SparseMem()], ids=["PhysMem", "SparseMem"])
def test_every_memory_effect_answers_what_was_there_before(memory: PhysMem | SparseMem) -> None:
    def agent() -> Agent[list[int]]:
        answers: list[int] = []
        yield Store(0x1000, 0xF0)
        for effect in (
            Load(0x1000),
            FetchOr(0x1000, 0x0F),
            FetchAnd(0x1000, 0x3C),
            CompareExchange(0x1000, 0x3C, 5),
            CompareExchange(0x1000, 0x3C, 6),
            Load(0x1000),
        ):
            answer: int = yield effect
            answers.append(answer)
        return answers

    assert run_untimed(agent(), memory) == [0xF0, 0xF0, 0xFF, 0x3C, 5, 5]


def test_registers_waits_delays_events() -> None:
    registers = _Registers()
    memory = PhysMem()
    memory.store(0x1000, 2 << 32)
    seen: list[Effect] = []

    def agent() -> Agent[int]:
        yield WriteRegister(0x88, 0x20)
        yield WriteRegister(0x90, 0x1234_5678_9000, 8)
        yield Delay(100)
        yield WaitFor(0x1004, 0xFFFF_FFFF, 2)
        yield WaitFor(0x1000, 0xFF << 32, 2 << 32)
        yield Event("done", (("iova", 0x1000),))
        value: int = yield ReadRegister(0x1C)
        return value

    assert run_untimed(agent(), memory, registers, seen.append) == 0x1C04
    assert registers.written == [(0x88, 0x20, 4), (0x90, 0x1234_5678_9000, 8)]
    assert [type(effect).__name__ for effect in seen] == [
        "WriteRegister", "WriteRegister", "Delay", "WaitFor", "WaitFor", "Event", "ReadRegister",
    ]  # fmt: skip


def test_an_agent_without_effects_returns() -> None:
    def agent() -> Agent[str]:
        yield from ()
        return "nothing to do"

    assert run_untimed(agent(), PhysMem()) == "nothing to do"


def test_unsatisfied_wait_names_word_and_wish() -> None:
    memory = PhysMem()
    memory.store(0x2000, 7 << 32)

    def agent() -> Agent[None]:
        yield WaitFor(0x2004, 0xFF, 2)

    with pytest.raises(Unsatisfied, match=r"word at 0x2004 is 0x7; under mask 0xff it must be 0x2"):
        run_untimed(agent(), memory)


def test_register_effect_without_registers() -> None:
    for effect in (WriteRegister(0x88, 1), ReadRegister(0x88)):
        with pytest.raises(Unsatisfied, match=r"needs registers"):
            apply(effect, PhysMem())


def test_an_error_reaches_the_agent_at_its_yield() -> None:
    def agent() -> Agent[str]:
        try:
            yield Load(0x1001)
        except ValueError as error:
            yield Store(0x1000, 1)
            return str(error)
        return "no error"

    memory = PhysMem()
    assert run_untimed(agent(), memory) == "address 0x1001 must be a multiple of 8"
    assert memory.load(0x1000) == 1


def test_not_an_effect() -> None:
    def agent() -> Any:
        yield 5

    with pytest.raises(TypeError, match=r"an agent must yield an effect, not 5"):
        run_untimed(agent(), PhysMem())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WaitFor(0x1002, 1, 1), r"must be a multiple of 4, not 0x1002"),
        (lambda: WaitFor(0x1004, 1 << 32, 0), r"mask must fit the word at 0x1004, not 0x100000000"),
        (lambda: WaitFor(0x1000, 1 << 64, 0), r"mask must fit the word at 0x1000"),
        (lambda: WaitFor(0x1000, 1, 2), r"value 0x2 must lie inside the mask 0x1"),
        (lambda: WriteRegister(0x88, 1 << 32), r"must fit 4 bytes, not 0x100000000"),
        (lambda: WriteRegister(0x88, 0, 2), r"size must be 4 or 8 bytes, not 2"),
        (lambda: WriteRegister(0x8C, 0, 8), r"offset must be a multiple of 8, not 0x8c"),
        (lambda: ReadRegister(-4), r"offset must be a multiple of 4, not -0x4"),
    ],
)
def test_misuse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_effects_are_values() -> None:
    assert Load(8) == Load(8)
    assert len({Store(8, 1), Store(8, 1), Event("x", (("a", 1),)), Event("x", (("a", 1),))}) == 2
    Load(8).address = 16  # type: ignore[misc]  # refused by the type checker, which also wants this comment to be needed


def test_changed_agent() -> None:
    """Some effects are replaced by none or several, each answered; the result and what comes instead stay."""

    def agent() -> Agent[int]:
        first = yield Load(8)
        yield Store(16, 1)
        second = yield Load(24)
        return first + second

    def instead() -> Agent[int]:
        yield Store(16, 2)
        return (yield Load(16)) * 10

    memory, seen = SparseMem(), list[Effect]()
    memory.store(8, 5)
    looked = list[Effect]()

    def change(effect: Effect) -> Agent[int] | None:
        looked.append(effect)
        return instead() if effect == Load(24) else None

    assert run_untimed(changed(agent(), change), memory, observe=seen.append) == 25
    assert looked == [Load(8), Store(16, 1), Load(24)]
    assert seen == [Load(8), Store(16, 1), Store(16, 2), Load(16)]
