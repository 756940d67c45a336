"""Fault reasons and fault records (facts B1, B5, J)."""

from enum import IntEnum

from pymodel.spec.fields import Field, Format

__all__ = ["FAULT_RECORD", "SCALABLE_OF_LEGACY", "Reason"]


class Reason(IntEnum):
    """Reason of a refused request; 0 is no fault. Codes below 0x30 are legacy mode, the others scalable mode."""

    NONE = 0x00
    ROOT_NOT_PRESENT = 0x01
    CONTEXT_NOT_PRESENT = 0x02
    CONTEXT_INVALID = 0x03
    """AW or TT not supported; also the page-table root cannot be read (facts J)."""
    ADDRESS_BEYOND_WIDTH = 0x04
    WRITE_DENIED = 0x05
    READ_DENIED = 0x06
    TABLE_ACCESS = 0x07
    ROOT_ACCESS = 0x08
    CONTEXT_ACCESS = 0x09
    ROOT_RESERVED = 0x0A
    CONTEXT_RESERVED = 0x0B
    ENTRY_RESERVED = 0x0C
    INTERRUPT_ADDRESS = 0x0E
    SM_BAD_MODE = 0x30
    """RTADDR.TTM is abort or reserved."""
    SM_PASID_IN_LEGACY = 0x31
    """A request with PASID while RTADDR.TTM is legacy."""
    SM_ROOT_ACCESS = 0x38
    SM_ROOT_NOT_PRESENT = 0x39
    SM_ROOT_RESERVED = 0x3A
    SM_CONTEXT_ACCESS = 0x40
    SM_CONTEXT_NOT_PRESENT = 0x41
    SM_CONTEXT_RESERVED = 0x42
    SM_PASID_DISABLED = 0x45
    SM_PASID_TOO_LARGE = 0x46
    SM_RID_PASID_TOO_LARGE = 0x48
    SM_DIRECTORY_ACCESS = 0x50
    SM_DIRECTORY_NOT_PRESENT = 0x51
    SM_DIRECTORY_RESERVED = 0x52
    SM_PASID_ACCESS = 0x58
    SM_PASID_NOT_PRESENT = 0x59
    SM_PASID_RESERVED = 0x5A
    SM_PASID_INVALID = 0x5B
    SM_TABLE_ACCESS = 0x78
    SM_ENTRY_NOT_PRESENT = 0x79
    SM_ENTRY_RESERVED = 0x7A
    SM_TABLE_ROOT_ACCESS = 0x7B
    SM_ADDRESS_BEYOND_WIDTH = 0x84
    SM_WRITE_DENIED = 0x85
    SM_READ_DENIED = 0x86
    SM_INTERRUPT_ADDRESS = 0x87


SCALABLE_OF_LEGACY: dict[Reason, frozenset[Reason]] = {
    Reason.ROOT_NOT_PRESENT: frozenset({Reason.SM_ROOT_NOT_PRESENT}),
    Reason.CONTEXT_NOT_PRESENT: frozenset({Reason.SM_CONTEXT_NOT_PRESENT}),
    Reason.CONTEXT_INVALID: frozenset({Reason.SM_PASID_INVALID, Reason.SM_TABLE_ROOT_ACCESS}),
    Reason.ADDRESS_BEYOND_WIDTH: frozenset({Reason.SM_ADDRESS_BEYOND_WIDTH}),
    Reason.WRITE_DENIED: frozenset({Reason.SM_ENTRY_NOT_PRESENT, Reason.SM_WRITE_DENIED}),
    Reason.READ_DENIED: frozenset({Reason.SM_ENTRY_NOT_PRESENT, Reason.SM_READ_DENIED}),
    Reason.TABLE_ACCESS: frozenset({Reason.SM_TABLE_ACCESS}),
    Reason.ROOT_ACCESS: frozenset({Reason.SM_ROOT_ACCESS}),
    Reason.CONTEXT_ACCESS: frozenset({Reason.SM_CONTEXT_ACCESS}),
    Reason.ROOT_RESERVED: frozenset({Reason.SM_ROOT_RESERVED}),
    Reason.CONTEXT_RESERVED: frozenset({Reason.SM_CONTEXT_RESERVED}),
    Reason.ENTRY_RESERVED: frozenset({Reason.SM_ENTRY_RESERVED}),
    Reason.INTERRUPT_ADDRESS: frozenset({Reason.SM_INTERRUPT_ADDRESS}),
}
"""What scalable mode publishes where a shipping emulation reports the legacy number (facts J, last lines)."""

FAULT_RECORD = Format(
    "FAULT_RECORD",
    128,
    Field("address", 12, 52, "page address of the request, bits 63:12"),
    Field("sid", 64, 16, "source id"),
    Field("pasid_present", 95, 1),
    Field("reason", 96, 8),
    Field("pasid", 104, 20),
    Field("at", 124, 2, "address type, 0 untranslated"),
    Field("t", 126, 1, "1 read, 0 write"),
    Field("f", 127, 1, "record is valid; RW1C"),
    source="facts B1: Linux (32-bit views), QEMU",
)
