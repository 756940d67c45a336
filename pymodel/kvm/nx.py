"""NX huge pages: tables that exist only because huge pages may not be executed, and their recovery (facts C8).

`track` is account_huge_nx_page (6.1) or track_possible_nx_huge_page, `untrack` its opposite.
"""

from collections.abc import Callable

from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.vm import Table, Vm, call, flush_all

__all__ = ["recover", "track", "untrack"]


def track(vm: Vm, table: Table) -> KvmAgent[None]:
    """Remember a table that could be a huge page, for recovery in the order of arrival."""
    modern = vm.version.nx_mark_every_table
    yield call("track_possible_nx_huge_page" if modern else "account_huge_nx_page", sp_gfn=table.gfn)
    vm.possible_nx.append(table)


def untrack(vm: Vm, table: Table) -> KvmAgent[None]:
    """The table is being removed: it is no longer a candidate."""
    if not table.nx_disallowed:
        return
    table.nx_disallowed = False
    modern = vm.version.nx_mark_every_table
    yield call("untrack_possible_nx_huge_page" if modern else "unaccount_huge_nx_page", sp_gfn=table.gfn)
    if table in vm.possible_nx:
        vm.possible_nx.remove(table)


def recover(vm: Vm, zap: Callable[[Vm, Table], KvmAgent[bool]]) -> KvmAgent[None]:
    """kvm_recover_nx_huge_pages: zap a share of the listed tables, oldest first, then flush once.

    Tables of slots whose dirty pages are logged would come back small at once; newer kernels only forget them.
    """
    ratio = vm.params.recovery_ratio
    count = -(-len(vm.possible_nx) // ratio) if ratio else 0
    flush = False
    for _ in range(count):
        if not vm.possible_nx:
            break
        table = vm.possible_nx[0]
        slot = vm.slots.find(table.gfn)
        if vm.version.nx_mark_every_table and slot is not None and slot.logging:
            yield from untrack(vm, table)
        elif (yield from zap(vm, table)):
            flush = True
    if flush:
        yield from flush_all(vm)
