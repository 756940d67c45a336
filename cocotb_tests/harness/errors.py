"""What a bench raises when somebody broke a rule; each says who, where and what was expected."""

from collections.abc import Sequence

__all__ = ["BenchError", "EmptyRun", "Hang", "HarnessError", "JudgeError", "Mismatch", "ProtocolError"]


class BenchError(AssertionError):
    """A verdict against the design, the model, or the bench. `cycle` is where it was seen."""

    def __init__(self, cycle: int, message: str) -> None:
        super().__init__(message)
        self.cycle = cycle
        self.history: list[str] = []
        """The events before it, one line each; filled in by the lock-step."""
        self.replay = ""
        """Seed and command that show it again; filled in by the lock-step."""

    def explain(self) -> str:
        """Everything an engineer needs first."""
        lines = [str(self)]
        if self.history:
            lines += ["events before it:", *("  " + line for line in self.history)]
        if self.replay:
            lines.append(f"replay: {self.replay}")
        return "\n".join(lines)


class Mismatch(BenchError):
    """The RTL and the cycle model differ (judge 2)."""

    def __init__(self, cycle: int, fields: Sequence[tuple[str, int, int]]) -> None:
        self.fields = list(fields)
        """(field, the cycle model's value, the RTL's value)."""
        shown = "; ".join(
            f"{name}: expected {want:#x}, RTL {have:#x}" for name, want, have in self.fields[:8]
        )
        more = f"; and {len(self.fields) - 8} more fields" if len(self.fields) > 8 else ""
        super().__init__(cycle, f"cycle {cycle}: RTL and cycle model differ: {shown}{more}")


class JudgeError(BenchError):
    """An answer that the architecture does not allow (judge 1)."""


class ProtocolError(BenchError):
    """A rule of docs/timing.md was broken on a port (judge 3). `rule` is its number."""

    def __init__(self, rule: str, cycle: int, message: str) -> None:
        super().__init__(cycle, f"cycle {cycle}: rule {rule}: {message}")
        self.rule = rule


class Hang(BenchError):
    """Nothing moved for too long, or the drain did not end."""


class EmptyRun(BenchError):
    """A run that checked nothing: no cycle was compared or no request was answered."""


class HarnessError(RuntimeError):
    """A bench was set up or used wrongly."""
