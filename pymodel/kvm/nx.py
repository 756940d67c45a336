"""NX huge pages: the list of tables that exist only because huge pages may not be executed (facts C8).

`track` is account_huge_nx_page (6.1) or track_possible_nx_huge_page, `untrack` its opposite. Mark and list change in
one step, as under KVM's tdp_mmu_pages_lock.
"""

from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.vm import Table, Vm, call

__all__ = ["track", "untrack"]


def track(vm: Vm, table: Table) -> KvmAgent[None]:
    """Remember a table that could be a huge page, for recovery in the order of arrival."""
    modern = vm.version.nx_mark_every_table
    vm.possible_nx[table] = None
    yield call("track_possible_nx_huge_page" if modern else "account_huge_nx_page", sp_gfn=table.gfn)


def untrack(vm: Vm, table: Table) -> KvmAgent[None]:
    """The table is being removed, or given up: it is no longer a candidate."""
    if not table.nx_disallowed:
        return
    table.nx_disallowed = False
    modern = vm.version.nx_mark_every_table
    vm.possible_nx.pop(table, None)
    yield call("untrack_possible_nx_huge_page" if modern else "unaccount_huge_nx_page", sp_gfn=table.gfn)
