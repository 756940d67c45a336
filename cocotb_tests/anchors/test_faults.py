"""Fault reasons (facts B5, J) and fault records (facts B1)."""

from cocotb_tests.anchors.positions import check
from pymodel.spec.faults import FAULT_RECORD, SCALABLE_OF_LEGACY, Reason


def test_codes() -> None:
    assert {reason.name: reason.value for reason in Reason} == {
        "NONE": 0x00,
        # legacy
        "ROOT_NOT_PRESENT": 0x01, "CONTEXT_NOT_PRESENT": 0x02, "CONTEXT_INVALID": 0x03,
        "ADDRESS_BEYOND_WIDTH": 0x04, "WRITE_DENIED": 0x05, "READ_DENIED": 0x06, "TABLE_ACCESS": 0x07,
        "ROOT_ACCESS": 0x08, "CONTEXT_ACCESS": 0x09, "ROOT_RESERVED": 0x0A, "CONTEXT_RESERVED": 0x0B,
        "ENTRY_RESERVED": 0x0C, "INTERRUPT_ADDRESS": 0x0E,
        # scalable
        "SM_BAD_MODE": 0x30, "SM_PASID_IN_LEGACY": 0x31, "SM_ROOT_ACCESS": 0x38, "SM_ROOT_NOT_PRESENT": 0x39,
        "SM_ROOT_RESERVED": 0x3A, "SM_CONTEXT_ACCESS": 0x40, "SM_CONTEXT_NOT_PRESENT": 0x41,
        "SM_CONTEXT_RESERVED": 0x42, "SM_PASID_DISABLED": 0x45, "SM_PASID_TOO_LARGE": 0x46,
        "SM_RID_PASID_TOO_LARGE": 0x48, "SM_DIRECTORY_ACCESS": 0x50, "SM_DIRECTORY_NOT_PRESENT": 0x51,
        "SM_DIRECTORY_RESERVED": 0x52, "SM_PASID_ACCESS": 0x58, "SM_PASID_NOT_PRESENT": 0x59,
        "SM_PASID_RESERVED": 0x5A, "SM_PASID_INVALID": 0x5B, "SM_TABLE_ACCESS": 0x78,
        "SM_ENTRY_NOT_PRESENT": 0x79, "SM_ENTRY_RESERVED": 0x7A, "SM_TABLE_ROOT_ACCESS": 0x7B,
        "SM_ADDRESS_BEYOND_WIDTH": 0x84, "SM_WRITE_DENIED": 0x85, "SM_READ_DENIED": 0x86,
        "SM_INTERRUPT_ADDRESS": 0x87,
    }  # fmt: skip


def test_what_scalable_mode_publishes_for_a_legacy_number() -> None:
    assert {int(legacy): sorted(map(int, many)) for legacy, many in SCALABLE_OF_LEGACY.items()} == {
        0x01: [0x39], 0x02: [0x41], 0x03: [0x5B, 0x7B], 0x04: [0x84], 0x05: [0x79, 0x85], 0x06: [0x79, 0x86],
        0x07: [0x78], 0x08: [0x38], 0x09: [0x40], 0x0A: [0x3A], 0x0B: [0x42], 0x0C: [0x7A], 0x0E: [0x87],
    }  # fmt: skip


def test_record() -> None:
    check(
        FAULT_RECORD,
        128,
        # the upper half is 15:0 SID, 31 PASID present, 39:32 reason, 59:40 PASID, 61:60 AT, 62 T, 63 F
        {"address": (63, 12), "sid": (79, 64), "pasid_present": (95, 95), "reason": (103, 96),
         "pasid": (123, 104), "at": (125, 124), "t": (126, 126), "f": (127, 127)},
        0x7FFF_0000 << 64 | 0xFFF,
    )  # fmt: skip


def test_a_recorded_fault() -> None:
    """Firmware left virtio-blk (00:04.0) running; its read of 0x1ffde000 met R=W=0. PASID is 0xffff there."""
    word = 0x40FF_FF06_0000_0020 << 64 | 0x1FFD_E000
    fields = {
        "address": 0x1FFDE, "sid": 0x20, "pasid_present": 0, "reason": 6, "pasid": 0xFFFF, "at": 0, "t": 1,
    }  # fmt: skip
    assert FAULT_RECORD.unpack(word) == {**fields, "f": 0}
    assert FAULT_RECORD.pack(**fields) == word
    # the driver read the dword at +12 and cleared the record by writing bit 31 there
    assert FAULT_RECORD.pack(f=1) == 0x8000_0000 << 96
