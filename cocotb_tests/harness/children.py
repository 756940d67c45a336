"""Child processes that never outlive the call that started them: compilers and simulations.

Times are wall-clock seconds.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["BuildFailed", "run_compiler", "run_simulation", "tail"]

_POLL = 0.05  # between two looks at the log and the progress file


class BuildFailed(RuntimeError):
    """A simulator did not accept the Verilog; the text ends with the compiler's last lines."""


@contextmanager
def _child(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path, *, family: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `command` in `directory`, all it says appended to `log`; on the way out it is ended if it still runs.

    family: it starts processes of its own (make, the `verilator` script), which do not end with it; they form a
    process group that is ended as a whole.
    """
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0 if family else None,
        ) as child,
    ):
        try:
            yield child
        finally:
            if child.poll() is None:
                if family:
                    os.killpg(child.pid, signal.SIGKILL)
                else:
                    child.kill()


def run_compiler(command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path) -> None:
    """Run one compiler to its end; `BuildFailed` with the last lines of its output where it fails."""
    with _child(command, environment, directory, log, family=True) as child:
        status = child.wait()
    if status:
        raise BuildFailed(f"{Path(command[0]).name} failed with status {status}:\n{tail(log, 20)}")


def run_simulation(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    timeout_s: float | None,
    quiet: bool,
    progress_file: Path,
    progress: Callable[[dict[str, Any]], None] | None,
) -> int | None:
    """Run a simulation to its end; returns its status, or None when `timeout_s` ended it.

    quiet: False prints the log while it grows. progress: called with each JSON line of `progress_file`.
    """
    limit = None if timeout_s is None else time.monotonic() + timeout_s
    followers = [] if quiet else [_Follower(log, lambda line: print(line, end="", flush=True))]
    if progress is not None:
        followers.append(_Follower(progress_file, lambda line: progress(json.loads(line))))
    with _child(command, environment, directory, log) as child:
        while True:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            try:
                status = child.wait(min(_POLL, left or _POLL) if followers else left)
                break
            except subprocess.TimeoutExpired:
                if limit is not None and time.monotonic() >= limit:
                    return None
            for follower in followers:
                follower.poll()
        for follower in followers:
            follower.poll()
        return status


class _Follower:
    """Hands each complete new line of a growing file to a function."""

    def __init__(self, path: Path, take: Callable[[str], object]) -> None:
        self._path, self._take, self._offset = path, take, 0

    def poll(self) -> None:
        """Take the lines that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as source:
            source.seek(self._offset)
            for line in source:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(line.decode(errors="replace"))


def tail(path: Path, count: int) -> str:
    """The last `count` lines of a log, without blank ones."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(line for line in lines[-count:] if line.strip()) or "(empty log)"
