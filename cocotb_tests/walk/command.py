"""`twodim walk`: one access, walked offline through the tables of a file, with every level explained."""

import json
import re
from pathlib import Path
from typing import Any

from cocotb_tests.command import UserError
from cocotb_tests.walk.inputs import Tables, load_tables
from pymodel.iommu.context import (
    context_address,
    directory_address,
    mode_refusal,
    pasid_address,
    read_words,
    root_address,
)
from pymodel.iommu.entries import Context, ContextRules, Refusal
from pymodel.iommu.translate import translate
from pymodel.iommu.types import Outcome, Request
from pymodel.paging.formats import SecondStage
from pymodel.paging.walk import walk
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.fields import Format
from pymodel.spec.second_stage import LEAVES, LEVEL_NAMES, SS_TABLE, SS_TABLE_TOP

__all__ = ["explain", "parse_bdf", "parse_iova", "run"]

_ADDRESSES = ("address", "table", "context_table", "pasid_directory")  # page numbers, shown as byte addresses


def parse_iova(text: str) -> int:
    """A 64-bit address, decimal or with 0x."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise UserError(f"IOVA must be a number in 0..0x{'f' * 16}, not {text!r}")
    return value


def parse_bdf(text: str) -> int:
    """A source id: 0x20, or bus:device.function as in 00:04.0."""
    named = re.fullmatch(r"([0-9a-fA-F]{1,2}):([01]?[0-9a-fA-F])\.([0-7])", text)
    if named:
        bus, device, function = (int(part, 16) for part in named.groups())
        return bus << 8 | device << 3 | function
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 16:
        raise UserError(f"--bdf must be like 0x20 or 00:04.0, not {text!r}")
    return value


def _choose(tables: Tables, bdf: str | None) -> int:
    if bdf is not None:
        return parse_bdf(bdf)
    if len(tables.sources) != 1:
        known = ", ".join(f"{source:#x}" for source in tables.sources) or "none"
        raise UserError(f"--bdf must name one source; the file knows {known}")
    return tables.sources[0]


def run(
    file: Path,
    iova: str,
    *,
    bdf: str | None = None,
    write: bool = False,
    at: int | None = None,
    image: int | None = None,
    as_json: bool = False,
) -> int:
    """Explain the walk of `iova`; a refusal is a result like any other."""
    address = parse_iova(iova)
    if bdf is not None:
        parse_bdf(bdf)
    tables = load_tables(file, at=at, image=image)
    found = explain(tables, Request(_choose(tables, bdf), None, address, write))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for line in _text(found):
            print(line)
    return 0


def _fields(fmt: Format, word: int) -> dict[str, str]:
    """The fields that are not zero; addresses as bytes."""
    found = {}
    for field in fmt:
        value = fmt.get(word, field.name)
        if value and not (field.ignored and field.name.startswith("ignored")):
            found[field.name] = hex(value << field.lsb if field.name in _ADDRESSES else value)
    return found


def _step(name: str, address: int, fmt: Format, word: int, words: int, verdict: str) -> dict[str, Any]:
    return {
        "structure": name,
        "address": hex(address),
        "raw": f"{word:#0{2 + 16 * words}x}",
        "fields": _fields(fmt, word),
        "verdict": verdict,
    }


def _unreadable(name: str, address: int, reason: Reason) -> dict[str, Any]:
    return {
        "structure": name,
        "address": hex(address),
        "raw": None,
        "fields": {},
        "verdict": f"cannot be read: {reason.name}",
    }


class _Structures:
    """Root, context, directory and PASID entries on the way to the table."""

    def __init__(self, tables: Tables, request: Request) -> None:
        self._tables, self._request = tables, request
        self._rules = ContextRules(tables.params)
        self.steps: list[dict[str, Any]] = []

    def _read(self, name: str, address: int, words: int, fmt: Format, refused: Reason, judge: Any) -> Any:
        """Read one structure; what `judge` says about it, or a refusal."""
        memory = self._tables.memory
        if not memory.readable(address):
            self.steps.append(_unreadable(name, address, refused))
            return Refusal(refused)
        word = read_words(memory, address, words)
        verdict = judge(word)
        if isinstance(verdict, Refusal):
            text = verdict.reason.name + (", not recorded (FPD)" if verdict.fpd else "")
        elif isinstance(verdict, Context):
            text = (
                "pass-through" if verdict.pass_through else f"{verdict.levels} levels from {verdict.table:#x}"
            )
            text += f", domain {verdict.did:#x}"
        else:
            text = f"points to {verdict if isinstance(verdict, int) else verdict[0]:#x}"
        self.steps.append(_step(name, address, fmt, word, words, text))
        return verdict

    def walk(self) -> Context | Refusal:
        """All structures, up to the first that refuses."""
        params, rtaddr, sid = self._tables.params, self._tables.rtaddr, self._request.sid
        rules = self._rules
        scalable = layout.RTADDR.get(rtaddr, "ttm") == layout.TTM_SCALABLE
        address = root_address(params, rtaddr, sid)
        if scalable:
            table = self._read(
                "scalable root entry, half",
                address,
                1,
                layout.SCALABLE_ROOT_HALF,
                Reason.SM_ROOT_ACCESS,
                rules.scalable_root,
            )
        else:
            table = self._read(
                "root entry", address, 2, layout.LEGACY_ROOT, Reason.ROOT_ACCESS, rules.legacy_root
            )
        if isinstance(table, Refusal):
            return table
        address = context_address(table, scalable, sid)
        if not scalable:
            found: Context | Refusal = self._read(
                "context entry",
                address,
                2,
                layout.LEGACY_CONTEXT,
                Reason.CONTEXT_ACCESS,
                rules.legacy_context,
            )
            return found
        context = self._read(
            "scalable context entry",
            address,
            4,
            layout.SCALABLE_CONTEXT,
            Reason.SM_CONTEXT_ACCESS,
            lambda word: rules.scalable_context(word, self._request.pasid),
        )
        if isinstance(context, Refusal):
            return context
        base, pasid, fpd = context
        directory = self._read(
            f"PASID directory entry of PASID {pasid:#x}",
            directory_address(base, pasid),
            1,
            layout.PASID_DIRECTORY,
            Reason.SM_DIRECTORY_ACCESS,
            lambda word: rules.directory(word, fpd),
        )
        if isinstance(directory, Refusal):
            return directory
        base, fpd = directory
        result: Context | Refusal = self._read(
            f"PASID entry of PASID {pasid:#x}",
            pasid_address(base, pasid),
            8,
            layout.PASID_ENTRY,
            Reason.SM_PASID_ACCESS,
            lambda word: rules.pasid(word, fpd),
        )
        return result


def _levels(tables: Tables, context: Context, request: Request) -> list[dict[str, Any]]:
    """Every level of the page table."""
    done = walk(
        tables.memory,
        SecondStage.of(tables.params),
        context.table,
        context.levels,
        request.iova,
        request.write,
        scalable=context.scalable,
    )
    steps: list[dict[str, Any]] = []
    for step in done.steps:
        fields: dict[str, str] = {}
        if step.entry is not None:
            large = step.level <= tables.params.large_pages and bool(step.entry.word & 0x80)
            leaf = step.level == 0 or large
            fmt = LEAVES[step.level] if leaf else SS_TABLE if step.level < 3 else SS_TABLE_TOP
            fields = _fields(fmt, step.entry.word)
        steps.append(
            {
                "structure": f"level {step.level} ({LEVEL_NAMES[step.level]})",
                "table": hex(step.table),
                "index": step.index,
                "address": hex(step.address),
                "raw": f"{step.entry.word:#018x}" if step.entry is not None else None,
                "fields": fields,
                "permission": _rights(step.r, step.w),
                "verdict": step.verdict,
            }
        )
    return steps


def _rights(r: bool, w: bool) -> str:
    return ("r" if r else "-") + ("w" if w else "-")


def explain(tables: Tables, request: Request) -> dict[str, Any]:
    """The whole walk as JSON-able values; `result` is what the architectural model answers."""
    outcome: Outcome = translate(tables.params, tables.memory, tables.rtaddr, request)
    steps: list[dict[str, Any]] = []
    note = ""
    refusal = mode_refusal(tables.params, tables.rtaddr, request)
    if refusal is not None:
        note = "the mode of the root pointer refuses every request"
    elif request.iova >> 20 == 0xFEE:
        note = "the interrupt address range is never translated"
    else:
        structures = _Structures(tables, request)
        context = structures.walk()
        steps = structures.steps
        if isinstance(context, Context) and not context.pass_through:
            steps += _levels(tables, context, request)
            if request.iova >> 12 + 9 * context.levels:
                note = (
                    f"the address has more than the {12 + 9 * context.levels} bits of {context.levels} levels"
                )
    result: dict[str, Any] = {"reason": int(outcome.reason), "name": outcome.reason.name}
    if not outcome.reason:
        result |= {
            "address": hex(outcome.address),
            "level": outcome.level,
            "page": hex(4096 << 9 * outcome.level),
            "permission": _rights(outcome.r, outcome.w),
            "snoop": outcome.snoop,
        }
    else:
        result["recorded"] = outcome.recorded
    return {
        "tables": tables.title,
        "rtaddr": hex(tables.rtaddr),
        "sid": hex(request.sid),
        "iova": hex(request.iova),
        "access": "write" if request.write else "read",
        "steps": steps,
        "note": note,
        "result": result,
    }


def _text(found: dict[str, Any]) -> list[str]:
    sid = int(found["sid"], 16)
    source = f"{sid >> 8:02x}:{sid >> 3 & 31:02x}.{sid & 7}"
    lines = [
        found["tables"],
        f"{found['access']} of {found['iova']} by {source}, root pointer {found['rtaddr']}",
    ]
    for step in found["steps"]:
        where = f", table {step['table']} [{step['index']}]" if "table" in step else ""
        lines.append(f"  {step['structure']}{where} at {step['address']}")
        if step["raw"] is not None:
            fields = "  ".join(f"{name}={value}" for name, value in step["fields"].items())
            lines.append(f"    {step['raw']}  {fields}")
        granted = f"; so far {step['permission']}" if "permission" in step else ""
        lines.append(f"    {step['verdict']}{granted}")
    if found["note"]:
        lines.append(f"  {found['note']}")
    result = found["result"]
    if result["reason"]:
        recorded = "recorded" if result["recorded"] else "not recorded"
        lines.append(f"-> fault {result['reason']:#x} {result['name']}, {recorded}")
    else:
        snoop = ", snooped" if result["snoop"] else ""
        lines.append(f"-> {result['address']} ({result['page']} bytes, {result['permission']}{snoop})")
    return lines
