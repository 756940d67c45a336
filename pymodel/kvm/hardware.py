"""The CPU's nested walk, as far as KVM sees it: faults with their error codes, A and D bits (facts A3, K).

The TLB is not modelled: every access walks. The emulated CPU of the recordings empties its TLB at each entry.
"""

from pymodel.effects import CompareExchange, Load
from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.spte import ADDRESS, LARGE, WRITABLE, SpteFormat
from pymodel.kvm.vm import PML_ENTRIES, Table

__all__ = ["FETCH", "FINAL", "GUEST_PAGE", "PML_FULL", "READ", "WRITE", "nested_walk"]

READ, WRITE, FETCH = "read", "write", "fetch"
FINAL = 1 << 32
"""PFERR_GUEST_FINAL: the access itself faulted."""
GUEST_PAGE = 1 << 33
"""PFERR_GUEST_PAGE: a read of the guest's own page table faulted."""
PML_FULL = 1 << 63
"""Instead of an error code: the access would set D, but the page-modification log is full."""
_CHANGED = 1 << 62

_PRESENT, _WRITE, _USER, _RESERVED, _FETCH = 1, 2, 4, 8, 16


def nested_walk(
    fmt: SpteFormat,
    root: Table,
    gpa: int,
    access: str,
    *,
    origin: int = FINAL,
    address_bits: int = 40,
    log: list[int] | None = None,
) -> KvmAgent[int | None]:
    """Walk for one access; None and A (and D) set, or the error code of the fault, or `PML_FULL`.

    `log`: the page-modification log; a write that sets D of the leaf puts the page's address there (facts C7).
    A and D are set by a locked update that compares: an entry that was changed since it was read, perhaps emptied,
    gets no bits; the walk begins again.

    A reserved bit is reported without P, as the emulator of the recordings does (facts K: 0xc, not 0xd).
    """
    while True:
        result = yield from _walk(fmt, root, gpa, access, origin, address_bits, log)
        if result != _CHANGED:
            return result


def _walk(
    fmt: SpteFormat, root: Table, gpa: int, access: str, origin: int, address_bits: int, log: list[int] | None
) -> KvmAgent[int | None]:
    """One attempt; `_CHANGED` where an entry was not what it had been."""
    code = _USER | {READ: 0, WRITE: _WRITE, FETCH: _FETCH}[access]
    table, level = root.frame << 12, root.level
    writable, executable = True, True
    gfn = gpa >> 12
    reserved = ADDRESS & ~((1 << address_bits) - 1)
    while True:
        address = table + 8 * (gfn >> 9 * (level - 1) & 511)
        entry: int = yield Load(address)
        if not entry & fmt.hw_present:
            return origin | code
        if fmt.is_mmio(entry) or _bad(fmt, entry, reserved):
            return origin | code | _RESERVED
        writable = writable and bool(entry & WRITABLE)
        executable = executable and fmt.allows(entry, write=False, execute=True)
        if level == 1 or entry & LARGE:
            break
        if fmt.ad_enabled and not entry & fmt.accessed:
            if (yield CompareExchange(address, entry, entry | fmt.accessed)) != entry:
                return _CHANGED
        table, level = entry & ADDRESS, level - 1
    if (code & _WRITE and not writable) or (code & _FETCH and not executable):
        return origin | code | _PRESENT
    if fmt.ad_enabled:
        wanted = fmt.accessed | (fmt.dirty if code & _WRITE else 0)
        if wanted & ~entry:
            noted = log if wanted & ~entry & fmt.dirty else None
            if noted is not None and len(noted) >= PML_ENTRIES:
                return PML_FULL
            if (yield CompareExchange(address, entry, entry | wanted)) != entry:
                return _CHANGED
            if noted is not None:
                noted.append(gpa & ~0xFFF)
    return None


def _bad(fmt: SpteFormat, entry: int, reserved: int) -> bool:
    """An entry that the CPU refuses: address bits beyond its width, in an entry that KVM did not make live."""
    return bool(entry & reserved) and not entry & fmt.live
