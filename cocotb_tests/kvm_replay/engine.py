"""Replays one recording of KVM's TDP MMU: the model does each step, the matcher compares (issue "Conformance").

Declared oracle inputs, and nothing else of the body of a step: the host's page tables around it, the notifier
calls at the place where they came, when the NX recovery worker ran, and frame numbers of pages that were mapped
in passing only (`pymodel.host.recorded`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cocotb_tests.inputs.kvm_recording import KvmRecord, KvmRecording
from cocotb_tests.kvm_replay.host import answer_fault, host_agent, interrupted, is_call, wants_lock
from cocotb_tests.kvm_replay.match import Divergence, Matcher, Mismatch, show_record
from cocotb_tests.kvm_replay.race import race
from cocotb_tests.kvm_replay.steps import perform
from pymodel.host.recorded import RecordedHost
from pymodel.kvm.effects import (
    HostFault,
    HostInterrupt,
    HostPage,
    KvmAgent,
    KvmEffect,
    Resched,
    SpteChanged,
    Trace,
    run_kvm,
)
from pymodel.kvm.invariants import check_entries
from pymodel.kvm.spte import ADDRESS, pages
from pymodel.kvm.version import is_known, version_for
from pymodel.kvm.vm import KvmParams, Table, Vm
from pymodel.memory import PhysMem

__all__ = ["Replay", "ReplayResult", "Step"]

_KNOWN_BUILDS = ("6.1.0-", "6.12.117+deb12")
"""Kernels with recordings of all calls, so that it is known which probes their compilers left."""
_RECORDED = ("6.1", "6.12")
"""Versions of the model that recordings have been held against."""
_FIRST_TABLE = 1 << 38
"""Frames of the model's tables: far above any that a host has."""


@dataclass(slots=True)
class Step:
    """One operation of the capture, or several that ran at once."""

    ops: list[KvmRecord]
    body: list[KvmRecord] = field(default_factory=list)
    ends: list[KvmRecord] = field(default_factory=list)
    snapshots: list[KvmRecord] = field(default_factory=list)

    @property
    def open_guest(self) -> bool:
        """Whether guests are running."""
        return str(self.ops[-1].fields["op"]).startswith("guest_") and not self.snapshots and not self.ends

    @property
    def open_to_others(self) -> bool:
        """Whether several tasks touch KVM in this step of a guest or the host, so that their order must be found."""
        tasks = {record.task for record in self.body}
        name = str(self.ops[0].fields["op"])
        without_kvm = name == "wait" or (name.startswith("host_") and name != "host_set")
        return len(self.ops) > 1 or (len(tasks) > 1 and (name.startswith("guest_") or without_kvm))


@dataclass(slots=True)
class ReplayResult:
    """What came of a recording."""

    scenario: str
    kernel: str
    steps: int = 0
    events: int = 0
    """Records that were compared."""
    transitions: int = 0
    snapshots: int = 0
    oracle_frames: int = 0
    divergence: Divergence | None = None
    interleavings: int = 0
    """Interleavings that were tried for steps with several vCPUs."""
    notes: list[str] = field(default_factory=list)
    """What the recording has and the model does not, and whose behaviour stands in for that of an unknown kernel."""


class Replay:
    """One recording on its way through the model."""

    def __init__(self, recording: KvmRecording) -> None:
        self.recording = recording
        self.memory = PhysMem()
        self.host = RecordedHost()
        self.params = KvmParams(gfn_bits=recording.header.address_bits)
        self.params.root_level = 5 if recording.header.la57 else 4
        kvm = recording.header.kvm
        self.params.eager_page_split = kvm.get("eager_page_split", "Y") == "Y"
        self.params.nx_huge_pages = kvm.get("nx_huge_pages", "N") in ("Y", "force")
        self.params.recovery_ratio = int(kvm.get("nx_huge_pages_recovery_ratio", "60"))
        self.params.mmio_caching = kvm.get("mmio_caching", "Y") == "Y"
        names = {record.name for record in recording.records}
        self.matcher = Matcher(names, known_build=recording.header.kernel.startswith(_KNOWN_BUILDS))
        self.vm: Vm | None = None
        self.result = ReplayResult(recording.header.scenario, recording.header.kernel)
        self.guest_tables: int | None = None
        """CR3 of a guest that has page tables of its own."""
        self.control: dict[int, dict[str, int]] = {}
        """Control registers of each vCPU, as far as they were set."""
        self._frame = _FIRST_TABLE
        self._npt: dict[tuple[int, int], int] = {}
        self.recovering = False

    def note(self, what: str) -> None:
        """Something that is passed over, to be said aloud."""
        text = f"not modelled, passed over: {what}"
        if text not in self.result.notes:
            self.result.notes.append(text)

    def new_frame(self) -> int:
        """A fresh page for a table."""
        self._frame += 1
        return self._frame

    def release_frame(self, frame: int) -> None:
        """A table page went back to the allocator."""
        self.memory.clear_page(frame << 12)

    def run(self) -> ReplayResult:
        """Replay all steps, up to the first divergence."""
        kernel = self.recording.header.kernel
        name = version_for(kernel).name
        if not is_known(kernel):
            self.result.notes.append(f"Linux {kernel} is not known; the nearest is modelled, {name}")
        elif name not in _RECORDED:
            self.result.notes.append(f"modelled as Linux {name}, which rests on facts.md, not on recordings")
        try:
            for step in _steps(self.recording.records):
                self._step(step)
                self.result.steps += len(step.ops)
        except Mismatch as mismatch:
            self.result.divergence = mismatch.divergence
        self.result.events = self.matcher.compared
        self.result.oracle_frames = self.host.oracle_frames
        return self.result

    def _step(self, step: "Step") -> None:
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

    def do(self, agent: KvmAgent[Any]) -> Any:
        """Run an agent of the model, comparing what it does."""
        return run_kvm(agent, self.memory, self._handle)

    def _handle(self, effect: KvmEffect) -> HostPage | bool | None:
        if isinstance(effect, HostFault):
            self.host_events()
            return answer_fault(self.host, effect, self.matcher)
        if isinstance(effect, Resched):
            return wants_lock(effect, self.matcher)
        if isinstance(effect, HostInterrupt):
            self.host_events()
            return interrupted(self.matcher)
        if isinstance(effect, SpteChanged):
            self.result.transitions += 1
            self._reach(effect)
        elif isinstance(effect, Trace):
            self._reach(effect)
        return None

    def _reach(self, effect: KvmEffect) -> None:
        """Compare what the model did, once the host did what came before."""
        if not self.matcher.inside:
            self.host_events()
            while self.matcher.pass_over(effect):
                self.host_events()
        self.matcher.event(effect)

    def host_events(self) -> None:
        """Let the primary MMU do what the recording says it did at this place."""
        while self.vm is not None:
            record = self.matcher.peek()
            agent = None if record is None else host_agent(self, self.vm, record)
            if record is None or agent is None:
                return
            if is_call(record):
                self.matcher.take()
            self.do(agent)

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


def _steps(records: list[KvmRecord]) -> list[Step]:
    """The steps; guest operations of several vCPUs that ran at the same time are one."""
    steps: list[Step] = []
    for record in records:
        if record.name == "op":
            together = str(record.fields["op"]).startswith("guest_") and bool(steps) and steps[-1].open_guest
            if together:
                steps[-1].ops.append(record)
            else:
                steps.append(Step([record]))
        elif not steps:
            continue
        elif record.name == "end":
            steps[-1].ends.append(record)
        elif record.name in ("host_pt", "npt"):
            steps[-1].snapshots.append(record)
        else:
            steps[-1].body.append(record)
    return steps
