"""Bad input: one line that names file, line, field, value and what was allowed."""

from pathlib import Path

__all__ = ["InputError"]

_MAX_VALUE = 80


class InputError(ValueError):
    """An input file cannot be used; `str()` is one line for the user, to be printed without a traceback."""

    def __init__(
        self,
        file: str | Path,
        line: int | None,
        field: str,
        value: object,
        allowed: str,
    ) -> None:
        self.file = str(file)
        self.line = line
        """Line number counted from 1; None where no single line is to blame."""
        self.field = field
        """Path of the field, like `requests[3].iova`; empty where the whole line is meant."""
        self.value = value
        self.allowed = allowed
        super().__init__(self._text())

    def _text(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = self.value if isinstance(self.value, str) else repr(self.value)
        shown = " ".join(text.split())
        if len(shown) > _MAX_VALUE:
            shown = shown[: _MAX_VALUE - 3] + "..."
        name = f"{self.field}: " if self.field else ""
        got = f"got {shown}" if shown else "got nothing"
        return " ".join(f"{place}: {name}{got}; wanted {self.allowed}".split())

    def __str__(self) -> str:
        return self._text()
