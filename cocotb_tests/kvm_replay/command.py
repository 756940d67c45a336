"""`twodim kvm-replay FILE...`: recordings of a real KVM's TDP MMU replayed on the golden model.

One line per recording; for one that diverges, the first difference with the records before it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.kvm_recording import read_kvm_recording
from cocotb_tests.kvm_replay.engine import Replay
from cocotb_tests.kvm_replay.session import ReplayResult

__all__ = ["main", "report", "replay_file"]


def replay_file(path: Path) -> ReplayResult:
    """Replay one recording. Raises `InputError` for one that cannot be read."""
    return Replay(read_kvm_recording(path)).run()


def report(path: Path, result: ReplayResult) -> list[str]:
    """What to print about a recording."""
    counts = f"{result.steps} steps, {result.transitions} transitions, {result.events} records, "
    counts += f"{result.snapshots} snapshots"
    if result.interleavings:
        counts += f", {result.interleavings} interleavings tried"
    if result.oracles:
        told = (f"{kind} {count}" for kind, count in sorted(result.oracles.items()))
        counts += f"; from the recording: {', '.join(told)}"
    divergence = result.divergence
    notes = [f"note     {path}: {note}" for note in result.notes]
    if divergence is None:
        return [*notes, f"ok       {path}: {counts}"]
    text = [*notes, f"DIVERGED {path}:{divergence.line}: after {counts}", f"  step     {divergence.step}"]
    text += [f"  before   {line}" for line in divergence.context]
    return text + [f"  recorded {divergence.expected}", f"  model    {divergence.got}"]


def main(paths: Sequence[str | Path]) -> int:
    """0 if all recordings agree with the model, 1 if one diverges, 2 if one cannot be read."""
    code = 0
    for name in paths:
        path = Path(name)
        try:
            result = replay_file(path)
        except InputError as error:
            print(error, file=sys.stderr)
            code = 2
            continue
        print("\n".join(report(path, result)), flush=True)
        if result.divergence is not None and code == 0:
            code = 1
    return code
