"""Effects: what host software asks of memory, registers and time.

Host software is written as generators (*agents*) that yield these values and receive the answer. An agent
never touches memory or time itself, so the same code runs at once (`run_untimed`), cycle by cycle in a
co-simulation, or under every interleaving. The answer of `Load`, `CompareExchange`, `FetchOr`, `FetchAnd` and
`ReadRegister` is an integer (for the atomics the value *before*), that of every other effect is `None`.

This file knows no memory: whoever runs an agent brings one that has the methods of `Words`.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, dataclass_transform

__all__ = ["Agent", "CompareExchange", "Delay", "Effect", "Event", "FetchAnd", "FetchOr", "Load",
           "ReadRegister", "Registers", "Store", "Unsatisfied", "WaitFor", "Words", "WriteRegister", "apply",
           "changed", "effect_type", "run_untimed"]  # fmt: skip

T = TypeVar("T")

_WORD = (1 << 64) - 1


@dataclass_transform(frozen_default=True)
def effect_type(cls: type[T]) -> type[T]:
    """Make a class of effects: equality, hash and matching by type and fields, as a frozen dataclass has.

    A type checker refuses to assign a field. At run time nothing does, for the constructor of a class that is really
    frozen takes three times as long, and one nested page fault yields over twenty effects.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@effect_type
class Load:
    """Read the 64-bit word at `address` (bytes, multiple of 8); answered with its value."""

    address: int


@effect_type
class Store:
    """Write the 64-bit word at `address` (bytes, multiple of 8), in one piece."""

    address: int
    value: int


@effect_type
class CompareExchange:
    """Write `new` to `address` if it holds `expected`, atomically; answered with what it held before."""

    address: int
    expected: int
    new: int


@effect_type
class FetchOr:
    """OR `mask` into the word at `address`, atomically; answered with what it held before."""

    address: int
    mask: int


@effect_type
class FetchAnd:
    """AND `mask` into the word at `address`, atomically; answered with what it held before."""

    address: int
    mask: int


@effect_type
class WriteRegister:
    """Write `size` (4 or 8) bytes at byte `offset` of the register page; a write of IQT is a doorbell."""

    offset: int
    value: int
    size: int = 4

    def __post_init__(self) -> None:
        _check_register(self.offset, self.size)
        if not 0 <= self.value < 1 << (8 * self.size):
            raise ValueError(f"register value must fit {self.size} bytes, not {self.value:#x}")


@effect_type
class ReadRegister:
    """Read `size` (4 or 8) bytes at byte `offset` of the register page; answered with the value."""

    offset: int
    size: int = 4

    def __post_init__(self) -> None:
        _check_register(self.offset, self.size)


@effect_type
class WaitFor:
    """Go on once the word at `address`, ANDed with `mask`, is `value`.

    At a multiple of 8 bytes the word has 64 bits. At an odd multiple of 4 it is the upper dword, and `mask`
    has 32. Raises `ValueError` for any other address, a mask too wide, and a value that `mask` never gives.
    """

    address: int
    mask: int
    value: int

    def __post_init__(self) -> None:
        if self.address & 3:
            raise ValueError(f"WaitFor address must be a multiple of 4, not {self.address:#x}")
        if not 0 <= self.mask <= (_WORD >> 32 if self.address & 4 else _WORD):
            raise ValueError(f"WaitFor mask must fit the word at {self.address:#x}, not {self.mask:#x}")
        if self.value & ~self.mask:
            raise ValueError(f"WaitFor value {self.value:#x} must lie inside the mask {self.mask:#x}")

    def satisfied(self, load: Callable[[int], int]) -> bool:
        """Whether the agent may go on; `load` reads the 64-bit word at a multiple of 8."""
        word = load(self.address & ~7)
        if self.address & 4:
            word >>= 32
        return word & self.mask == self.value


@effect_type
class Delay:
    """Let `cycles` clock cycles pass; no effect where there is no time."""

    cycles: int


@effect_type
class Event:
    """Say that something happened; for checkers, logs and waves, without effect on memory."""

    name: str
    details: tuple[tuple[str, Hashable], ...] = ()


Effect: TypeAlias = (
    Load
    | Store
    | CompareExchange
    | FetchOr
    | FetchAnd
    | WriteRegister
    | ReadRegister
    | WaitFor
    | Delay
    | Event
)

Agent: TypeAlias = Generator[Effect, Any, T]
"""A piece of host software that returns a `T`."""


def _check_register(offset: int, size: int) -> None:
    if size not in (4, 8):
        raise ValueError(f"register access size must be 4 or 8 bytes, not {size}")
    if offset < 0 or offset % size:
        raise ValueError(f"register offset must be a multiple of {size}, not {offset:#x}")


class Words(Protocol):
    """Memory as `apply` needs it: 64-bit words at byte addresses that are multiples of 8."""

    def load(self, address: int) -> int: ...

    def store(self, address: int, value: int) -> None: ...

    def compare_exchange(self, address: int, expected: int, new: int) -> int: ...

    def fetch_or(self, address: int, mask: int) -> int: ...

    def fetch_and(self, address: int, mask: int) -> int: ...


class Registers(Protocol):
    """Registers as `apply` needs them; `size` is 4 or 8 bytes."""

    def write(self, offset: int, value: int, size: int) -> None: ...

    def read(self, offset: int, size: int) -> int: ...


class Unsatisfied(RuntimeError):
    """A `WaitFor` that nothing can satisfy any more, or a register effect without registers."""


def apply(effect: Effect, memory: Words, registers: Registers | None = None) -> int | None:
    """Perform one effect at once and return its answer.

    Raises `Unsatisfied` for a `WaitFor` that does not hold and for register effects without `registers`,
    `ValueError` from `memory` for a bad address, `TypeError` for anything that is no effect.
    """
    if isinstance(effect, Store):
        memory.store(effect.address, effect.value)
    elif isinstance(effect, Load):
        return memory.load(effect.address)
    elif isinstance(effect, CompareExchange):
        return memory.compare_exchange(effect.address, effect.expected, effect.new)
    elif isinstance(effect, FetchOr):
        return memory.fetch_or(effect.address, effect.mask)
    elif isinstance(effect, FetchAnd):
        return memory.fetch_and(effect.address, effect.mask)
    elif isinstance(effect, WriteRegister):
        _need(registers, effect).write(effect.offset, effect.value, effect.size)
    elif isinstance(effect, ReadRegister):
        return _need(registers, effect).read(effect.offset, effect.size)
    elif isinstance(effect, WaitFor):
        if not effect.satisfied(memory.load):
            word = memory.load(effect.address & ~7) >> (8 * (effect.address & 4))
            raise Unsatisfied(
                f"WaitFor: the word at {effect.address:#x} is {word:#x}; under mask {effect.mask:#x} it must "
                f"be {effect.value:#x}, and nothing runs that could change it"
            )
    elif not isinstance(effect, Delay | Event):
        raise TypeError(f"an agent must yield an effect, not {effect!r}")
    return None


def _need(registers: Registers | None, effect: Effect) -> Registers:
    if registers is None:
        raise Unsatisfied(f"{effect} needs registers; run_untimed was given none")
    return registers


def changed(
    agent: Generator[Any, Any, T], change: Callable[[Any], Generator[Any, Any, Any] | None]
) -> Generator[Any, Any, T]:
    """The agent with `change(effect)` in the place of each effect for which that is not None.

    What comes in its place is not changed again. A `change` that only looks is called ahead of every effect.
    """
    answer: Any = None
    while True:
        try:
            effect = agent.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        other = change(effect)
        answer = (yield effect) if other is None else (yield from other)


def run_untimed(
    agent: Agent[T],
    memory: Words,
    registers: Registers | None = None,
    observe: Callable[[Effect], None] | None = None,
) -> T:
    """Run an agent to its end, every effect at once, and return what it returns.

    `observe` is called after each effect was applied. Errors of `apply` are thrown into the agent at its
    `yield`, so that it can clean up and the traceback shows which effect it was.
    """
    answer: int | None = None
    failure: Exception | None = None
    while True:
        try:
            effect = agent.send(answer) if failure is None else agent.throw(failure)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        answer = failure = None
        try:
            answer = apply(effect, memory, registers)
        except (ValueError, TypeError, Unsatisfied) as error:
            failure = error
            continue
        if observe is not None:
            observe(effect)
