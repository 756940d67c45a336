"""Values of x86 host page-table entries, as the recordings show them (arch/x86/include/asm/pgtable_types.h)."""

from pymodel.host.kernel import HostKernel

__all__ = ["ACCESSED", "DIRTY", "PRESENT", "SPECIAL", "WRITABLE", "after_migration", "clean_and_old", "frame_of",
           "is_dirty", "is_migration", "is_swap", "leaf", "make_writable", "mapped_frame", "migration_entry",
           "migration_exclusive", "migration_frame", "migration_part", "migration_read_only", "none_protection",
           "page_size", "pages", "part", "swap_entry", "swap_exclusive", "swap_number", "swap_shared",
           "undo_none_protection", "write_protect", "zero_leaf"]  # fmt: skip

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE = 1, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7
PROTNONE = 1 << 8
"""Of a non-present entry: the page is there, the process may not touch it (the bit of G)."""
SPECIAL = 1 << 9
"""pte_special: no page to count references of, which is the zero page."""
SOFT_DIRTY = 1 << 11
SAVED_DIRTY = 1 << 58
NO_EXECUTE = 1 << 63
_ADDRESS = ((1 << 52) - 1) & ~0xFFF

_EXCLUSIVE, _SWAP_SOFT_DIRTY = 1 << 3, 1 << 1
_TYPE_LSB, _OFFSET_LSB = 59, 9
_OFFSET = (1 << 50) - 1
_MIGRATION_READ, _MIGRATION_READ_EXCLUSIVE, _MIGRATION_WRITE = 28, 29, 30
_MIGRATION_YOUNG, _MIGRATION_DIRTY = 1 << 40, 1 << 41
"""Above the frame number in the offset (SWP_MIG_YOUNG_BIT, SWP_MIG_DIRTY_BIT)."""


def pages(level: int) -> int:
    """4K pages under an entry of `level`."""
    return 1 << 9 * (level - 1)


def page_size(level: int) -> int:
    """Bytes under an entry of `level`."""
    return 4096 << 9 * (level - 1)


def leaf(frame: int, level: int, *, writable: bool, dirty: bool) -> int:
    """A page that the process just touched: A set; D and soft-dirty with `dirty`."""
    value = NO_EXECUTE | frame << 12 | PRESENT | USER | ACCESSED
    if writable:
        value |= WRITABLE
    if dirty:
        value |= DIRTY | SOFT_DIRTY
    return value | (LARGE if level > 1 else 0)


def zero_leaf(frame: int, level: int) -> int:
    """The zero page (4K) or the huge zero page (2M); neither is ever writable."""
    return leaf(frame, level, writable=False, dirty=False) | (SPECIAL if level == 1 else 0)


def frame_of(value: int) -> int:
    """First frame of a present leaf."""
    return (value & _ADDRESS) >> 12


def is_dirty(value: int) -> bool:
    """pte_dirty: D, or D saved by a write protection."""
    return bool(value & (DIRTY | SAVED_DIRTY))


def write_protect(value: int, kernel: HostKernel) -> int:
    """pte_wrprotect: W cleared; newer kernels save D elsewhere, for W=0 with D=1 means a shadow stack."""
    value &= ~WRITABLE
    if kernel.saved_dirty and value & DIRTY:
        value = value & ~DIRTY | SAVED_DIRTY
    return value


def clean_and_old(value: int) -> int:
    """pte_mkclean and pte_mkold."""
    return value & ~(ACCESSED | DIRTY | SAVED_DIRTY)


def make_writable(value: int) -> int:
    """pte_mkwrite: W set, and a saved D is back in its place."""
    if value & SAVED_DIRTY:
        value = value & ~SAVED_DIRTY | DIRTY
    return value | WRITABLE


def none_protection(value: int) -> int:
    """PROT_NONE over a present leaf: the address is inverted, so that no CPU speculates to it (L1TF)."""
    keep = value & (ACCESSED | DIRTY | LARGE | SOFT_DIRTY | SPECIAL | SAVED_DIRTY)
    return keep | PROTNONE | ~value & _ADDRESS


def undo_none_protection(value: int) -> int:
    """The present, read-only leaf under a PROT_NONE entry."""
    keep = value & (ACCESSED | DIRTY | LARGE | SOFT_DIRTY | SPECIAL | SAVED_DIRTY)
    return keep | PRESENT | USER | NO_EXECUTE | ~value & _ADDRESS


def mapped_frame(value: int) -> int | None:
    """The first frame of a leaf, present or under PROT_NONE; None for swap, migration and empty entries."""
    if value & PRESENT:
        return frame_of(value)
    if value & PROTNONE:
        return (~value & _ADDRESS) >> 12
    return None


def swap_entry(number: int, *, exclusive: bool) -> int:
    """The page lies in swap slot `number`; `exclusive`: no other process had it (pte_swp_exclusive)."""
    return _swap(0, number) | (_EXCLUSIVE if exclusive else 0)


def swap_number(value: int) -> int:
    """Slot of a swap entry."""
    return _offset(value)


def swap_exclusive(value: int) -> bool:
    """pte_swp_exclusive."""
    return bool(value & _EXCLUSIVE)


def swap_shared(value: int) -> int:
    """pte_swp_clear_exclusive: after a fork."""
    return value & ~_EXCLUSIVE


def migration_entry(value: int, *, exclusive: bool) -> int:
    """In place of the present leaf `value`: the page moves, and whoever touches it waits."""
    kind = _MIGRATION_READ_EXCLUSIVE if exclusive else _MIGRATION_READ
    if value & WRITABLE:
        kind = _MIGRATION_WRITE
    flags = (_MIGRATION_YOUNG if value & ACCESSED else 0) | (_MIGRATION_DIRTY if is_dirty(value) else 0)
    return _swap(kind, frame_of(value) | flags)


def migration_frame(value: int) -> int:
    """Frame that a migration entry waits for."""
    return _offset(value) & (_MIGRATION_YOUNG - 1)


def migration_exclusive(value: int) -> bool:
    """Whether no other process had the page."""
    return value >> _TYPE_LSB != _MIGRATION_READ


def migration_read_only(value: int, *, exclusive: bool) -> int:
    """The same entry without write permission (mprotect), or shared with a child (fork)."""
    kind = _MIGRATION_READ_EXCLUSIVE if exclusive else _MIGRATION_READ
    return value & ~(31 << _TYPE_LSB) | kind << _TYPE_LSB


def after_migration(value: int, frame: int, level: int, *, may_write: bool) -> int:
    """remove_migration_pte: the leaf for the page at its new place."""
    offset = _offset(value)
    writable = may_write and value >> _TYPE_LSB == _MIGRATION_WRITE
    new = leaf(frame, level, writable=writable, dirty=bool(offset & _MIGRATION_DIRTY))
    return new if offset & _MIGRATION_YOUNG else new & ~ACCESSED


def part(value: int, index: int) -> int:
    """The 4K entry number `index` of a present or PROT_NONE 2M entry that is split."""
    if value & PRESENT:
        return (value & ~LARGE) + (index << 12)
    return none_protection((undo_none_protection(value) & ~LARGE) + (index << 12))


def migration_part(value: int, index: int) -> int:
    """The same of a 2M migration entry."""
    return value & ~(_OFFSET << _OFFSET_LSB) | (~(_offset(value) + index) & _OFFSET) << _OFFSET_LSB


def is_swap(value: int) -> bool:
    """A swap entry of a page."""
    return _is_swap_like(value) and value >> _TYPE_LSB == 0


def is_migration(value: int) -> bool:
    """A migration entry."""
    return _is_swap_like(value) and _MIGRATION_READ <= value >> _TYPE_LSB <= _MIGRATION_WRITE


def _is_swap_like(value: int) -> bool:
    return value != 0 and not value & (PRESENT | PROTNONE)


def _swap(kind: int, offset: int) -> int:
    return kind << _TYPE_LSB | (~offset & _OFFSET) << _OFFSET_LSB | _SWAP_SOFT_DIRTY


def _offset(value: int) -> int:
    return ~(value >> _OFFSET_LSB) & _OFFSET
