"""A recording cut into its steps: an operation of the capture, what it caused, its result and the tables after it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cocotb_tests.inputs.kvm_recording import KvmRecord

__all__ = ["Step", "steps_of"]


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


def steps_of(records: Iterable[KvmRecord]) -> list[Step]:
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
