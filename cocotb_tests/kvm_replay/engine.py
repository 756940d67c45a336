"""Replays one recording of KVM's TDP MMU: the model does each step, the matcher compares, the tables are checked."""

from typing import Any

import numpy as np

from cocotb_tests.inputs.kvm_recording import KvmRecord
from cocotb_tests.kvm_replay.match import Mismatch, show_record
from cocotb_tests.kvm_replay.race import race
from cocotb_tests.kvm_replay.recorded_steps import Step, steps_of
from cocotb_tests.kvm_replay.session import ReplayResult, Session
from cocotb_tests.kvm_replay.steps import perform
from pymodel.kvm.invariants import check_entries
from pymodel.kvm.spte import ADDRESS, pages
from pymodel.kvm.version import is_known, version_for
from pymodel.kvm.vm import Table, Vm

__all__ = ["Replay"]

_RECORDED = ("6.1", "6.12")
"""Versions of the model that recordings have been held against."""


class Replay(Session):
    """One recording from its first step to its last, or to its first divergence."""

    def run(self) -> ReplayResult:
        """Replay all steps, up to the first divergence."""
        kernel = self.recording.header.kernel
        name = version_for(kernel).name
        if not is_known(kernel):
            self.result.notes.append(f"Linux {kernel} is not known; the nearest is modelled, {name}")
        elif name not in _RECORDED:
            self.result.notes.append(f"modelled as Linux {name}, which rests on facts.md, not on recordings")
        try:
            for step in steps_of(self.recording.records):
                self._step(step)
                self.result.steps += len(step.ops)
        except Mismatch as mismatch:
            self.result.divergence = mismatch.divergence
        self.result.events = self.matcher.compared
        self.result.oracles = +self.oracles
        return self.result

    def _step(self, step: Step) -> None:
        self.matcher.load(step.body, f"line {step.ops[0].line}: {show_record(step.ops[0])}")
        for record in step.snapshots:
            if record.name == "host_pt":
                self.host.begin(_changes(record.fields))
        try:
            if step.open_to_others:
                race(self, step)
            else:
                perform(self, step.ops[0], step.ends[0] if step.ends else None)
                self.host_events()
        except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self.matcher.fail("a step that the model can do", f"{type(error).__name__}: {error}", step.ops[0].line)
        self.matcher.end()
        self.host.finish()
        for record in step.snapshots:
            if record.name == "npt":
                self._check_npt(record)

    def _check_npt(self, record: KvmRecord) -> None:
        """The nested tables after the step, every bit."""
        vm = self.vm
        fields = record.fields
        root = None
        if vm is not None:
            root = next((vcpu.root for vcpu in vm.vcpus if vcpu.root is not None and not vcpu.root.invalid), None)
        if fields.get("root") is None:
            if root is not None:
                self.matcher.fail("npt: no root", "a root", record.line)
            return
        if vm is None or root is None:
            self.matcher.fail("npt: a root", "no root", record.line)
            return
        if fields.get("new"):
            self._npt.clear()
        for level, gfn, count in fields["del"]:
            for index in range(count):
                self._npt.pop((level, gfn + index * pages(level)), None)
        for level, gfn, count, value in fields["set"]:
            for index in range(count):
                offset = index * pages(level)
                self._npt[level, gfn + offset] = value + (offset << 12)
        self.result.snapshots += 1
        if not self.matcher.same_frame(root.frame, fields["root"] >> 12):
            self.matcher.fail(f"npt: root {fields['root']:x}", f"another root than before, {root.frame:x}", record.line)
        ours = self._tables(vm, root)
        check_entries(vm, root, ours, settled=True)
        for key in sorted(self._npt.keys() | ours.keys()):
            mine, theirs = ours.get(key, vm.fmt.empty), self._npt.get(key, fields.get("empty", vm.fmt.empty))
            if not self.matcher.same(mine, theirs, key[0]):
                self.matcher.fail(
                    f"npt: level={key[0]} gfn={key[1]:x} value={theirs:x}", f"value={mine:x}", record.line
                )

    def _tables(self, vm: Vm, root: Table) -> dict[tuple[int, int], int]:
        """All entries that are not empty, by (level, gfn)."""
        found: dict[tuple[int, int], int] = {}
        pending = [(root.frame, root.level, 0)]
        while pending:
            frame, level, base = pending.pop()
            words = self.memory.page_words(frame << 12)
            if words is None:
                continue
            for index in np.nonzero(words != np.uint64(vm.fmt.empty))[0].tolist():
                value, gfn = int(words[index]), base + index * pages(level)
                found[level, gfn] = value
                if vm.fmt.is_table(value, level):
                    pending.append(((value & ADDRESS) >> 12, level - 1, gfn))
        return found


def _changes(fields: dict[str, Any]) -> list[tuple[int, tuple[int, int, int, int | None]]]:
    gone: list[tuple[int, tuple[int, int, int, int | None]]]
    gone = [(slot, (level, hva, count, None)) for slot, level, hva, count in fields["del"]]
    return gone + [(slot, (level, hva, count, value)) for slot, level, hva, count, value in fields["set"]]
