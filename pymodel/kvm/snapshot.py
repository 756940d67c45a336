"""Hashable pictures of a VM: equal pictures mean that no agent can tell the two states apart.

For explorers, which compare states by the million: plain tuples of fields, read by attribute getters. The host,
the source of table pages and the entries themselves are not the VM's; whoever explores pictures them beside it.
"""

from collections.abc import Hashable
from operator import attrgetter

from pymodel.kvm.memslots import ADDRESS_SPACES, Memslot
from pymodel.kvm.vm import Table, Vcpu, Vm

__all__ = ["snapshot"]

_table = attrgetter("frame", "level", "gfn", "as_id", "parent", "guest_mode", "nx_disallowed", "invalid", "refcount",
                    "scheduled_zap", "exported", "mmu_valid_gen")  # fmt: skip
_vcpu = attrgetter("ident", "as_id", "guest_mode", "mmio_gfn", "mmio_generation", "pml_enabled", "cpu",
                   "cache_disabled", "last_retry")  # fmt: skip
_slot = attrgetter("ident", "base_gfn", "npages", "hva", "flags", "as_id", "invalid")
_params = attrgetter("eager_page_split", "nx_huge_pages", "mmio_caching", "recovery_ratio", "recovery_period_ms",
                     "manual_protect", "initially_set", "slot_zap_all", "log_by_dirty_bit", "ranged_flush", "cd_quirk",
                     "wbinvd_exit", "hardware_private", "dirty_ring_size", "dirty_ring_reserved", "max_level",
                     "gfn_bits", "root_level")  # fmt: skip
_vm = attrgetter("version", "fmt", "mmu_valid_gen", "mmu_invalidate_seq", "mmu_invalidate_in_progress",
                 "invalidate_start", "invalidate_end", "notifiers_active", "noncoherent_devices", "traced")  # fmt: skip


def snapshot(vm: Vm, *contexts: Vcpu) -> Hashable:
    """The picture of a VM with its vCPUs, slots and table bookkeeping, and of fault contexts beside the vCPUs."""
    tables = vm.tables
    return (
        _vm(vm),
        _params(vm.params),
        tuple(vm.private.ranges()),
        tuple(map(vm.slots.generation, range(ADDRESS_SPACES))),
        tuple(map(_memslot, vm.slots)),
        frozenset(map(_table, tables.values())),
        tuple(map(_table, vm.roots)),
        tuple(map(_table, vm.possible_nx)),
        tuple(_processor(vcpu, tables) for vcpu in (*vm.vcpus, *contexts)),
    )


def _memslot(slot: Memslot) -> Hashable:
    return _slot(slot), frozenset(slot.dirty), slot.write_tracked.items()


def _processor(vcpu: Vcpu, tables: dict[int, Table]) -> Hashable:
    root = vcpu.root
    place = None if root is None else (_table(root), tables.get(root.frame) is root)
    requests = frozenset(vcpu.requests)
    logs = tuple(vcpu.ring), tuple(vcpu.ring_collected), tuple(vcpu.pml)
    return _vcpu(vcpu), place, requests, logs, frozenset(vcpu.wbinvd_cpus), tuple(vcpu.mtrrs)
