"""View files for wave dumps of the bench: `python -m cocotb_tests.wave_views` writes them to waves/.

    gtkwave dump.fst waves/iommu.gtkw          surfer -s waves/iommu.surf.ron dump.fst

Signals are grouped and named here once. GTKWave gets the names of states and reasons from waves/*.txt; start
it in the project, so that it finds them. Surfer has the same names as formats "iommu ..." when it is started
in waves/, where it finds .surfer/mappings. The paths are those of Verilator's dumps with default parameters;
Icarus puts a backslash before names that contain a dot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from pymodel.spec.faults import Reason
from pymodel.spec.observation import Apply, Lookup, QueueState, WriteId, observation
from pymodel.spec.params import IommuParams

__all__ = ["DECODERS", "GROUPS", "SLOT_STATES", "STAGES", "Decoder", "Group", "Wave", "files", "main",
           "signals"]  # fmt: skip

TOP = "bench_top"
SLOT_STATES = {0: "FREE", 1: "ISSUE", 2: "WAIT", 3: "DONE"}
"""Rule W1 of docs/timing.md; the encoding is that of the RTL."""
STAGES = {0: "ROOT", 1: "CONTEXT", 2: "DIRECTORY", 3: "PASID"}
"""Rule W3; the encoding is that of the RTL, and means something in context slots only."""


@dataclass(frozen=True)
class Decoder:
    """Names of the values of a field."""

    name: str
    bits: int
    values: Mapping[int, str]


@dataclass(frozen=True)
class Wave:
    """A signal below `TOP`: path, width, and how it is shown."""

    path: str
    bits: int = 1
    decoder: str = ""


@dataclass(frozen=True)
class Group:
    """Signals under a heading; `opened` says whether they are shown at first."""

    name: str
    waves: tuple[Wave, ...]
    opened: bool = True


def _names(kind: type[IntEnum]) -> dict[int, str]:
    return {member.value: member.name for member in kind}


DECODERS = {
    decoder.name: decoder
    for decoder in (
        Decoder("lookup", 4, _names(Lookup)),
        Decoder("queue_state", 3, _names(QueueState)),
        Decoder("apply", 2, _names(Apply)),
        Decoder("reason", 8, {**_names(Reason), 0: "-"}),
        Decoder("write_id", 2, _names(WriteId)),
        Decoder("slot_state", 2, SLOT_STATES),
        Decoder("stage", 2, STAGES),
    )
}
"""By the name of the file without its suffix."""

_PARAMS = IommuParams()
_WIDTHS = dict(observation(_PARAMS))
_OUTPUTS, _EVENTS = "iommu.observer.outputs", "iommu.observer.happened"


def _observed(*names: str, prefix: str = _OUTPUTS, **decoders: str) -> tuple[Wave, ...]:
    """Fields of the observation."""
    return tuple(Wave(f"{prefix}.{name}", _WIDTHS[name], decoders.get(name, "")) for name in names)


def _slot(number: int) -> tuple[Wave, ...]:
    """What a walk slot does."""
    path = f"iommu.walker.slot_{number}"
    return (
        Wave(f"{path}.state", 2, "slot_state"), Wave(f"{path}.killed"), Wave(f"{path}.context"),
        Wave(f"{path}.stage", 2, "stage"), Wave(f"{path}.level", 3), Wave(f"{path}.did", 16),
        Wave(f"{path}.page", _PARAMS.iova_bits - 15),
    )  # fmt: skip


GROUPS = (
    Group("clock", (Wave("clk"), Wave("rst"))),
    Group("requests", (
        Wave("requests__valid"), *_observed("requests_ready"),
        Wave("requests__payload.tag", _PARAMS.tag_bits), Wave("requests__payload.sid", 16),
        Wave("requests__payload.pasid_valid"), Wave("requests__payload.pasid", 20),
        Wave("requests__payload.iova", 64), Wave("requests__payload.write"),
    )),
    Group("lookup", (
        Wave("iommu.frontend.lookup", 4, "lookup"), Wave("iommu.frontend.request.tag", _PARAMS.tag_bits),
        Wave("iommu.frontend.request.iova", 64), Wave("iommu.frontend.replay"),
        Wave("iommu.frontend.blocked"), Wave("iommu.frontend.context_hit"), Wave("iommu.frontend.iotlb_hit"),
        Wave("iommu.frontend.did", 16),
        Wave("iommu.frontend.lookup_slot", 3),
    )),
    Group("answers of lookup (hits)", (
        *_observed("hits_valid"), Wave("hits__ready"),
        *_observed("hits_tag", "hits_reason", "hits_address", "hits_level", hits_reason="reason"),
    )),
    Group("answers of walks (completions)", (
        *_observed("completions_valid"), Wave("completions__ready"),
        *_observed("completions_tag", "completions_reason", "completions_address", "completions_level",
                   completions_reason="reason"),
    )),
    Group("memory reads", (
        *_observed("reads_valid"), Wave("reads__ready"), *_observed("reads_id", "reads_line"),
        Wave("read_data__valid"), Wave("read_data__payload.id", _WIDTHS["reads_id"]),
        Wave("read_data__payload.error"),
    )),
    Group("walk slots", (
        *_observed("slots_busy", "slots_killed", "pending_used"),
        *(wave for number in range(_PARAMS.walk_slots) for wave in _slot(number)[:2]),
    )),
    *(Group(f"slot {number}", _slot(number), opened=False) for number in range(_PARAMS.walk_slots)),
    Group("caches, one cycle later", (
        *_observed("iotlb_fill", "iotlb_fill_index", "iotlb_fill_level", "iotlb_fill_sectors",
                   "iotlb_evicted", "psc_fill", "psc_fill_index", "psc_fill_level", "psc_fill_sectors",
                   "psc_evicted", "context_fill", "context_fill_index", "context_evicted", prefix=_EVENTS),
    )),
    Group("invalidation queue", (
        *_observed("queue_state", "queue_head", queue_state="queue_state"),
        Wave("iommu.registers.queue.tail", 15), *_observed("queue_enabled", "queue_error"),
        *_observed("apply", "killed", prefix=_EVENTS, apply="apply"),
    )),
    Group("memory writes", (
        *_observed("writes_valid"), Wave("writes__ready"),
        *_observed("writes_id", "writes_address", "writes_data", writes_id="write_id"),
        Wave("write_acks__valid"), Wave("write_acks__payload.id", 2, "write_id"),
    )),
    Group("faults", (
        *_observed("fault_overflow", "fault_pending"), *_observed("faults_recorded", prefix=_EVENTS),
        Wave("iommu.frontend.fault"), Wave("iommu.frontend.reason", 8, "reason"),
    )),
    Group("registers", (
        Wave("register_requests__valid"), *_observed("register_requests_ready"),
        Wave("register_requests__payload.write"), Wave("register_requests__payload.address", 12),
        Wave("register_requests__payload.data", 64), *_observed("register_responses_valid"),
        *_observed("register_responses_data"), *_observed("translation_enabled"),
    ), opened=False),
)  # fmt: skip
"""Everything that is shown, from top to bottom."""


def signals() -> Iterator[str]:
    """Full names of all signals, as in a dump."""
    for group in GROUPS:
        for wave in group.waves:
            yield f"{TOP}.{wave.path}" + (f"[{wave.bits - 1}:0]" if wave.bits > 1 else "")


def files() -> dict[str, str]:
    """Path below waves/ and text of every view file."""
    found = {"iommu.gtkw": _gtkwave(), "iommu.surf.ron": _surfer()}
    for name, decoder in DECODERS.items():
        digits = -(-decoder.bits // 4)
        lines = [f"{value:0{digits}x} {text}" for value, text in decoder.values.items()]
        found[f"{name}.txt"] = "\n".join(lines) + "\n"
        header = [f"Name = iommu {name}", f"Bits = {decoder.bits}"]
        mapped = [f"0x{value:0{digits}x} {text}" for value, text in decoder.values.items()]
        found[f".surfer/mappings/iommu_{name}.txt"] = "\n".join((*header, *mapped)) + "\n"
    return found


_BIT, _HEX, _TRANSLATED_HEX = "@28", "@22", "@2022"  # how GTKWave shows the lines that follow
_BEGIN, _BEGIN_CLOSED, _END, _END_CLOSED = "@800200", "@c00200", "@1000200", "@1401200"


def _gtkwave() -> str:
    """GTKWave's save file."""
    lines = ["[*] written by cocotb_tests/wave_views.py", "[timestart] 0", "[sst_expanded] 0"]
    names = signals()
    for group in GROUPS:
        lines += [_BEGIN if group.opened else _BEGIN_CLOSED, f"-{group.name}"]
        for wave in group.waves:
            if wave.decoder:
                lines += [_TRANSLATED_HEX, f"^1 waves/{wave.decoder}.txt"]
            else:
                lines.append(_HEX if wave.bits > 1 else _BIT)
            lines.append(next(names))
        lines += [_END if group.opened else _END_CLOSED, f"-{group.name}"]
    return "\n".join(lines) + "\n"


def _surfer() -> str:
    """Surfer's state file (0.7). Numbers of scopes and variables are hints that it replaces by the names."""
    tree: list[str] = []
    items: list[str] = []
    scopes: dict[tuple[str, ...], int] = {}
    number = variable = 0
    for group in GROUPS:
        number += 1
        tree.append(_tree_item(number, 0, group.opened))
        opened = str(group.opened).lower()
        items.append(
            f'({number}): Group((name: "{group.name}", color: None, background_color: None, content: [], '
            f"is_open: {opened})),"
        )
        for wave in group.waves:
            number, variable = number + 1, variable + 1
            scope, name = _split(wave.path)
            scope_number = scopes.setdefault(scope, len(scopes) + 1)
            path = ", ".join(f'"{part}"' for part in scope)
            shown = "Hexadecimal" if wave.bits > 1 else "Bit"
            tree.append(_tree_item(number, 1, True))
            items.append(
                f"({number}): Variable((variable_ref: (path: (strs: [{path}], id: Wellen(({scope_number}))), "
                f'name: "{name}", id: Wellen(({variable})), index: None), color: None, '
                f'background_color: None, display_name: "{name}", display_name_type: Unique, '
                f'manual_name: None, format: Some("{shown}"), field_formats: [], '
                f"height_scaling_factor: None, analog: None)),"
            )
    viewport = "curr_left: (0.0), curr_right: (1.0), target_left: (0.0), target_right: (1.0), "
    viewport += "move_start_left: (0.0), move_start_right: (1.0), move_duration: None, move_strategy: Instant"
    indent = "\n            "
    return f"""// written by cocotb_tests/wave_views.py
(
    waves: Some((
        source: File("dump.fst"),
        format: Fst,
        active_scope: None,
        items_tree: (items: [
            {indent.join(tree)}
        ]),
        displayed_items: {{
            {indent.join(items)}
        }},
        display_item_ref_counter: {number},
        viewports: [({viewport})],
        cursor: None,
        markers: {{}},
        annotation_groups: [],
        annotation_list_visible: false,
        last_active_viewport_idx: 0,
        focused_item: None,
        focused_transaction: (None, None),
        default_variable_name_type: Unique,
        scroll_offset: 0.0,
        display_variable_indices: true,
        graphics: {{}},
    )),
)
"""


def _tree_item(number: int, level: int, opened: bool) -> str:
    return f"(item_ref: ({number}), level: {level}, unfolded: {str(opened).lower()}, selected: false),"


def _split(path: str) -> tuple[tuple[str, ...], str]:
    """Scopes and name: scopes are those of the hierarchy, dots of a record's fields belong to the name."""
    parts = path.split(".")
    depth = 0
    while parts[depth] in ("iommu", "frontend", "walker", "observer", "registers") and depth < len(parts) - 1:
        depth += 1
    return (TOP, *parts[:depth]), ".".join(parts[depth:])


def main(directory: Path | None = None) -> None:
    """Write all view files."""
    target = Path(__file__).resolve().parents[1] / "waves" if directory is None else directory
    for name, text in files().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
