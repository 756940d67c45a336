"""References to roots, and the way over all roots that stays valid while the lock is given up (facts C0)."""

from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.vm import Table, Vm, call

__all__ = ["EachRoot", "put_root", "roots_of"]


def put_root(vm: Vm, root: Table) -> KvmAgent[None]:
    """kvm_tdp_mmu_put_root: the last reference frees the page."""
    yield call("kvm_tdp_mmu_put_root", root_gfn=0)
    root.refcount -= 1
    if root.refcount == 0:
        vm.roots.remove(root)
        vm.free_table(root)


def roots_of(vm: Vm, as_id: int, *, dying: bool) -> list[Table]:
    """for_each_tdp_mmu_root: those of an address space, `dying` with invalid ones; nobody may make or free any."""
    return [root for root in vm.roots if root.as_id == as_id and (dying or not root.invalid)]


class EachRoot:
    """for_each_tdp_mmu_root_yield_safe: `while (root := (yield from each.next())) is not None: ...`.

    The root that `next` returned is referenced until the next call, so that it is not freed while its reader has
    given up the lock. As in the kernel roots of other address spaces are passed over only after they were taken.
    """

    __slots__ = ("_as_id", "_root", "_valid", "_vm")

    def __init__(self, vm: Vm, as_id: int | None = None, *, valid: bool = False) -> None:
        """`as_id` None: of all address spaces. `valid`: without those that are dying."""
        self._vm = vm
        self._as_id = as_id
        self._valid = valid
        self._root: Table | None = None

    def next(self) -> KvmAgent[Table | None]:
        """The next root, or None; the reference to the one before is dropped."""
        vm = self._vm
        while True:
            before, place = self._root, 0
            if before is not None:
                place = vm.roots.index(before) + 1
            root = next((one for one in vm.roots[place:] if not self._valid or not one.invalid), None)
            if root is not None:
                root.refcount += 1
            self._root = root
            if before is not None:
                yield from put_root(vm, before)
            if root is None or self._as_id is None or root.as_id == self._as_id:
                return root
