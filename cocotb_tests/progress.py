"""Progress on standard error: a bar on a terminal, a line for each quarter elsewhere."""

import sys
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Follows a running simulation towards `total`; use as a context manager."""

    def __init__(self, title: str, total: int, key: str = "answers") -> None:
        """`key`: what `total` counts, "answers" or "cycle"."""
        self._title, self._total, self._key = title, max(1, total), key
        self._bar: Any = None
        self._task: Any = None
        self._quarter = 0
        self._cycle = 0

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,} of {task.total:,}"),
                TextColumn("cycle {task.fields[cycle]:,}"),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=self._total, cycle=0)
            self._bar.start()
        return self

    def say(self, text: str) -> None:
        """Name what happens now."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def update(self, report: dict[str, Any]) -> None:
        """Take a progress report of the bench."""
        answers, cycle = int(report.get("answers", 0)), int(report.get("cycle", 0))
        done = int(report.get(self._key, 0))
        if self._bar is not None:
            self._bar.update(
                self._task, completed=min(done, self._total), cycle=cycle, description=self._title
            )
            return
        quarter = 4 * done // self._total
        if quarter > self._quarter:
            self._quarter = quarter
            share = f"{min(100, 100 * done // self._total)} %"
            print(
                f"{self._title}: {share}, {answers:,} answers in {cycle:,} cycles",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
