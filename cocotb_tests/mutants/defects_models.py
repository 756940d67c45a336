"""Defects of the models, the checkers and the harness: who watches the judges.

A judge that is wrong shows on the sound RTL. One that is blind shows by what it no longer notices: such a defect names
the RTL defect (`weakens`) that is seeded too.
"""

from cocotb_tests.mutants.defect import Defect, judges

__all__ = ["DEFECTS"]

_CYCLE, _LEGAL, _HARNESS = "pymodel/cycle/", "pymodel/iommu/", "cocotb_tests/harness/"

DEFECTS = (
    Defect(
        "model_victim", _CYCLE + "replacement.py",
        "node = 2 * node + (bits >> node & 1)",
        "node = 2 * node + (~bits >> node & 1)",
        "The cycle model replaces the line that was used last.",
        "pressure", judges("c"),
    ),
    Defect(
        "model_stale_count", _CYCLE + "invalidation.py",
        "self.stale, self.stale_completion = hits, int(completion)",
        "self.stale, self.stale_completion = max(0, hits - 1), int(completion)",
        "The cycle model lets one old hit more pass a wait.",
        "held hits", judges("c"),
    ),
    Defect(
        "model_permission", _CYCLE + "walker.py",
        "slot.permissions = permissions & entry\n",
        "slot.permissions = permissions & entry | 1\n",
        "The cycle model does not AND R along the walk.",
        "permissions", judges("c"),
    ),
    Defect(
        "model_fault_index", _CYCLE + "fault.py",
        "self.next = (self.next + 1) % len(self.records)",
        "self.next = min(self.next + 1, len(self.records) - 1)",
        "The cycle model's fault log does not wrap.",
        "faults", judges("c"),
    ),
    Defect(
        "model_fence_open", _CYCLE + "invalidation.py",
        "elif not self.unacknowledged:",
        "else:",
        "The cycle model does not wait at a fence either.",
        "waits", judges("p"),
        weakens="fence_open",
    ),
    Defect(
        "model_unmasked_after_reset", _CYCLE + "registers.py",
        "self.masked = 1",
        "self.masked = 0",
        "The cycle model does not mask event messages after reset either.",
        "faults", judges("p"),
        weakens="unmasked_after_reset",
    ),
    Defect(
        "model_read_turn", _CYCLE + "walker.py",
        "self._pointer = (index + 1) % self.count",
        "self._pointer = 0",
        "The cycle model lets the lowest slot read first, too.",
        "pressure", judges("p"),
        weakens="read_turn",
    ),
    Defect(
        "model_answer_turn", _CYCLE + "frontend.py",
        "self._pointer = (index + 1) % len(self.entries)",
        "self._pointer = 0",
        "The cycle model answers the lowest pending entry first, too.",
        "pressure", judges("p"),
        weakens="answer_turn",
    ),
    Defect(
        "legal_direction", _LEGAL + "paths.py",
        "self._wanted = 2 if request.write else 1",
        "self._wanted = 1",
        "The legal judge takes writes for reads.",
        "permissions", judges("l"),
    ),
    Defect(
        "legal_reserved", _LEGAL + "entries.py",
        "self.leaf_reserved = tuple(leaf.reserved | above | snp for leaf in ss.LEAVES)",
        "self.leaf_reserved = tuple(leaf.reserved | snp for leaf in ss.LEAVES)",
        "The legal judge does not know that leaf bits above HAW are reserved.",
        "entries", judges("l"),
    ),
    Defect(
        "legal_forgets_domains", _LEGAL + "coverage.py",
        "            self.leaf_domain[did] = submitted\n"
        "            _extend(self.pointer_domain.setdefault(did, []), link)\n",
        "            self.leaf_domain.setdefault(did, submitted)\n",
        "The legal judge takes only the first domain invalidation of a domain for one.",
        "in flight, domain", judges("c"),
        weakens="kill_other_domain",
    ),
    Defect(
        "legal_ignores_ranges", _LEGAL + "coverage.py",
        "leaves[block] = submitted",
        "leaves[block] = ALWAYS",
        "The legal judge takes page invalidations for none.",
        "ranges", judges("c"),
        weakens="range_half",
    ),
    Defect(
        "legal_faults_blind", _LEGAL + "faults.py",
        "if refusal.must and self._excused(refusal):",
        "if refusal.must and self._drops is not None:",
        "The fault judge excuses every missing record.",
        "faults", judges("cb"),
        weakens="second_fault_lost",
    ),
    Defect(
        "legal_status_unread", _LEGAL + "faults.py",
        '_FSTS_CHECKED = FSTS.mask("pfo", "ppf", "fri")',
        '_FSTS_CHECKED = FSTS.mask("pfo", "ppf")',
        "The fault judge does not look at FRI.",
        "faults", judges("cb"),
        weakens="first_record_index",
    ),
    Defect(
        "payload_unchecked", _HARNESS + "checkers.py",
        "if held is not None and payload != held:",
        "if held is not None and payload is None:",
        "Rule P1 looks at valid only, not at the payload.",
        "pressure, stalls", judges("c"),
        weakens="answer_replaced",
    ),
    Defect(
        "write_answers_unchecked", _HARNESS + "checkers.py",
        "if self.zero and response:",
        "if self.zero and response is None:",
        "Rule R1 does not look at the data that answers a write.",
        "events", judges("c"),
        weakens="write_answered_with_data",
    ),
    Defect(
        "staleness_unchecked", _HARNESS + "waits.py",
        "if hits > 0 or completions:",
        "if completions:",
        "Rule I8 looks at completions only.",
        "held hits", judges("cl"),
        weakens="wait_ignores_hits",
    ),
    Defect(
        "fence_unchecked", _HARNESS + "waits.py",
        "if self._unacknowledged or self._acked_at == cycle - 1:",
        "if self._unacknowledged < 0:",
        "Rule I9 does not look at fences.",
        "waits", judges("c"),
        weakens="fence_open",
    ),
    Defect(
        "masks_unchecked", _HARNESS + "messages.py",
        "return self.pending(cycle) and not self.registers(cycle)[0]",
        "return self.pending(cycle)",
        "Rule M2 does not look at masks.",
        "faults", judges("c"),
        weakens="unmasked_after_reset",
    ),
    Defect(
        "turns_unchecked", _HARNESS + "turns.py",
        "passed &= self.wanting",
        "passed = 0",
        "Rules W2 and C1 do not look at who is overtaken.",
        "pressure", judges("c"),
        weakens="answer_turn",
    ),
    Defect(
        "memory_remembers", _HARNESS + "memory_port.py",
        "for pending in (self._fifo, self._due, self._reads, self._samples, self._writes):",
        "for pending in (self._reads, self._samples, self._writes):",
        "The memory delivers data of reads from before a reset.",
        "resets", judges("lp"),
    ),
    Defect(
        "answer_too_early", _HARNESS + "answers.py",
        "if cycle < since + 2:",
        "if cycle < since + 3:",
        "Rule L7 asks for an answer one cycle later than it may come.",
        "ranges", judges("p"),
    ),
    Defect(
        "comparison_partial", _HARNESS + "lockstep.py",
        "elif obs != model.observe():",
        "elif obs >> 64 != model.observe() >> 64:",
        "The comparison leaves out the lowest bits of the observation, where the hits are.",
        "ranges", judges("l"),
        weakens="hit_sector",
    ),
    Defect(
        "comparison_off", _HARNESS + "lockstep.py",
        "elif obs != model.observe():",
        "elif not obs and model.observe():",
        "The comparison is off.",
        "pressure", judges(""),
        weakens="victim_wrong",
    ),
)  # fmt: skip
"""Models first."""
