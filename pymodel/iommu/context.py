"""Untimed walk of the root, context and PASID structures with fresh memory (facts A4, B5, J)."""

from pymodel.iommu.entries import Context, ContextRules, Refusal
from pymodel.iommu.types import Request, TableMemory
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

__all__ = [
    "context_address",
    "directory_address",
    "mode_refusal",
    "pasid_address",
    "read_words",
    "root_address",
    "walk_context",
]


def mode_refusal(params: IommuParams, rtaddr: int, request: Request) -> Refusal | None:
    """What the mode of the root pointer alone refuses; nothing of an abort is recorded (facts A4, B5)."""
    mode = layout.RTADDR.get(rtaddr, "ttm")
    modes = (layout.TTM_LEGACY, layout.TTM_SCALABLE) if params.scalable else (layout.TTM_LEGACY,)
    if mode not in modes:
        return Refusal(Reason.SM_BAD_MODE, mode == layout.TTM_ABORT)
    if mode == layout.TTM_LEGACY and request.pasid is not None:
        return Refusal(Reason.SM_PASID_IN_LEGACY)
    return None


def root_address(params: IommuParams, rtaddr: int, sid: int) -> int:
    """Address of what the walk reads first: a root entry, or the half of it that serves this function."""
    mask = (1 << params.haw) - 1
    base = (layout.RTADDR.get(rtaddr, "address") << 12) + 16 * (sid >> 8)
    if layout.RTADDR.get(rtaddr, "ttm") == layout.TTM_SCALABLE and sid & 0x80:
        base += 8
    return base & mask


def context_address(table: int, scalable: bool, sid: int) -> int:
    """Address of the context entry."""
    return table + (32 * (sid & 0x7F) if scalable else 16 * (sid & 0xFF))


def directory_address(directory: int, pasid: int) -> int:
    """Address of the PASID directory entry."""
    return directory + 8 * (pasid >> 6)


def pasid_address(table: int, pasid: int) -> int:
    """Address of the PASID entry."""
    return table + 64 * (pasid & 63)


def read_words(memory: TableMemory, address: int, count: int) -> int:
    """`count` words at `address` as one integer, the first lowest."""
    value = 0
    for index in range(count):
        value |= memory.load(address + 8 * index) << (64 * index)
    return value


def walk_context(
    params: IommuParams, memory: TableMemory, rtaddr: int, request: Request
) -> Context | Refusal:
    """What the structures say now about the source of `request`; the mode must have been accepted before."""
    rules = ContextRules(params)
    scalable = layout.RTADDR.get(rtaddr, "ttm") == layout.TTM_SCALABLE
    address = root_address(params, rtaddr, request.sid)
    if not memory.readable(address):
        return Refusal(Reason.SM_ROOT_ACCESS if scalable else Reason.ROOT_ACCESS)
    if scalable:
        root = rules.scalable_root(memory.load(address))
    else:
        root = rules.legacy_root(read_words(memory, address, 2))
    if isinstance(root, Refusal):
        return root
    address = context_address(root, scalable, request.sid)
    if not memory.readable(address):
        return Refusal(Reason.SM_CONTEXT_ACCESS if scalable else Reason.CONTEXT_ACCESS)
    if not scalable:
        return rules.legacy_context(read_words(memory, address, 2))
    context = rules.scalable_context(read_words(memory, address, 4), request.pasid)
    if isinstance(context, Refusal):
        return context
    directory, pasid, fpd = context
    address = directory_address(directory, pasid)
    if not memory.readable(address):
        return Refusal(Reason.SM_DIRECTORY_ACCESS, fpd)
    table = rules.directory(memory.load(address), fpd)
    if isinstance(table, Refusal):
        return table
    address = pasid_address(table[0], pasid)
    if not memory.readable(address):
        return Refusal(Reason.SM_PASID_ACCESS, table[1])
    return rules.pasid(read_words(memory, address, 8), table[1])
