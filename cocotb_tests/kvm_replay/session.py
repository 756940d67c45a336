"""The state of a replay and the one way for its steps to run an agent of the model: everything it does is compared.

Declared oracle inputs, and nothing else of the body of a step: the host's page tables around it, the notifier
calls at the place where they came, when the NX recovery worker ran, and frame numbers of pages that were mapped
in passing only (`pymodel.host.recorded`).
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cocotb_tests.inputs.kvm_recording import KvmRecording
from cocotb_tests.kvm_replay.host import answer_fault, host_agent, interrupted, wants_lock
from cocotb_tests.kvm_replay.match import Divergence, Matcher
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
from pymodel.kvm.vm import KvmParams, Vm
from pymodel.memory import PhysMem

__all__ = ["ReplayResult", "Session"]

_KNOWN_BUILDS = ("6.1.0-", "6.12.117+deb12")
"""Kernels with recordings of all calls, so that it is known which probes their compilers left."""
_FIRST_TABLE = 1 << 38
"""Frames of the model's tables: far above any that a host has."""


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
    oracles: Counter[str] = field(default_factory=Counter)
    """Oracle inputs that were used, by kind."""
    divergence: Divergence | None = None
    interleavings: int = 0
    """Interleavings that were tried for steps with several vCPUs."""
    notes: list[str] = field(default_factory=list)
    """What the recording has and the model does not, and whose behaviour stands in for that of an unknown kernel."""


class Session:
    """One recording on its way through the model, as its steps see it."""

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
        self.oracles: Counter[str] = Counter()

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

    def do(self, agent: KvmAgent[Any]) -> Any:
        """Run an agent of the model, comparing what it does."""
        return run_kvm(agent, self.memory, self._handle)

    def _handle(self, effect: KvmEffect) -> HostPage | bool | None:
        if isinstance(effect, HostFault):
            self.host_events()
            return answer_fault(self, effect, self.matcher)
        if isinstance(effect, Resched):
            return wants_lock(self, effect, self.matcher)
        if isinstance(effect, HostInterrupt):
            self.host_events()
            return interrupted(self, self.matcher)
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
            agent = host_agent(self, self.vm, self.matcher)
            if agent is None:
                return
            self.do(agent)
