"""Registers (facts B1) and values that Linux wrote to, or read from, an emulated VT-d."""

import pytest

from cocotb_tests.anchors.positions import check
from pymodel.spec import registers


def test_offsets_and_sizes() -> None:
    assert {register.name: (register.offset, register.size) for register in registers.REGISTERS.values()} == {
        "VER": (0x00, 4), "CAP": (0x08, 8), "ECAP": (0x10, 8), "GCMD": (0x18, 4), "GSTS": (0x1C, 4),
        "RTADDR": (0x20, 8), "FSTS": (0x34, 4), "FECTL": (0x38, 4), "FEDATA": (0x3C, 4), "FEADDR": (0x40, 4),
        "FEUADDR": (0x44, 4), "IQH": (0x80, 8), "IQT": (0x88, 8), "IQA": (0x90, 8), "ICS": (0x9C, 4),
        "IECTL": (0xA0, 4), "IEDATA": (0xA4, 4), "IEADDR": (0xA8, 4), "IEUADDR": (0xAC, 4), "IQER": (0xB0, 8),
    }  # fmt: skip
    assert registers.FAULT_RECORD_OFFSET == 0x200
    assert registers.VERSION >> 4 == 6
    assert all(name == register.name for name, register in registers.REGISTERS.items())


def test_positions() -> None:
    check(registers.GCMD, 32, {"qie": (26, 26), "srtp": (30, 30), "te": (31, 31)}, 0x3BFF_FFFF)
    check(
        registers.CAP,
        64,
        {"nd": (2, 0), "cm": (7, 7), "sagaw": (12, 8), "mgaw": (21, 16), "fro": (33, 24), "sslps": (37, 34),
         "psi": (39, 39), "nfr": (47, 40), "mamv": (53, 48), "dwd": (54, 54), "drd": (55, 55)},
        0xFF00_0040_00C0_E078,
    )  # fmt: skip
    check(
        registers.ECAP,
        64,
        {"c": (0, 0), "qi": (1, 1), "pt": (6, 6), "sc": (7, 7), "pss": (39, 35), "pasid": (40, 40),
         "smts": (43, 43), "ssts": (46, 46), "smpwc": (48, 48)},
        0xFFFE_B607_FFFF_FF3C,
    )  # fmt: skip
    check(
        registers.FSTS, 32, {"pfo": (0, 0), "ppf": (1, 1), "iqe": (4, 4), "fri": (15, 8)}, 0xFFFF_00EC
    )
    check(registers.EVENT_CONTROL, 32, {"ip": (30, 30), "im": (31, 31)}, 0x3FFF_FFFF)
    check(registers.ICS, 32, {"iwc": (0, 0)}, 0xFFFF_FFFE)
    check(registers.IQA, 64, {"qs": (2, 0), "dw": (11, 11), "address": (63, 12)}, 0x7F8)
    check(registers.QUEUE_POINTER, 64, {"offset": (18, 4)}, 0xFFFF_FFFF_FFF8_000F)
    check(registers.IQER, 64, {"iqei": (3, 0)}, 0xFFFF_FFFF_FFFF_FFF0)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (0x04000000, {"qie": 1, "srtp": 0, "te": 0}),
        (0x44000000, {"qie": 1, "srtp": 1, "te": 0}),
        (0x84000000, {"qie": 1, "srtp": 0, "te": 1}),
    ],
)
def test_commands_that_linux_wrote(value: int, fields: dict[str, int]) -> None:
    assert registers.GCMD.unpack(value) == fields
    assert registers.GCMD.pack(**fields) == value


def test_capabilities_of_a_recorded_unit() -> None:
    # 48-bit QEMU unit: 39 and 48 bits, MGAW 48, records at 0x220, 2M and 1G, one record, MAMV 18
    assert registers.CAP.unpack(0x00D2_008C_222F_0606) == {
        "nd": 6, "cm": 0, "sagaw": 0b00110, "mgaw": 47, "fro": 0x22, "sslps": 3, "psi": 1, "nfr": 0,
        "mamv": 18, "dwd": 1, "drd": 1,
    }  # fmt: skip
    assert registers.CAP.pack(
        nd=6, sagaw=0b00110, mgaw=47, fro=0x22, sslps=3, psi=1, mamv=18, dwd=1, drd=1
    ) == 0x00D2_008C_222F_0606  # fmt: skip
    ecap = registers.ECAP.unpack(0xF42)
    assert [name for name, value in ecap.items() if value] == ["qi", "pt"]


def test_queue_and_status_values() -> None:
    assert registers.IQA.unpack(0x49C2000) == {"qs": 0, "dw": 0, "address": 0x49C2}
    assert registers.IQA.pack(address=0x49C2, dw=1, qs=1) == 0x49C2801
    assert registers.QUEUE_POINTER.unpack(0x60) == {"offset": 6}
    assert registers.QUEUE_POINTER.pack(offset=0x7FFF) == 0x7FFF0
    assert registers.FSTS.unpack(0x0000_0513) == {"pfo": 1, "ppf": 1, "iqe": 1, "fri": 5}
    assert registers.EVENT_CONTROL.pack(im=1) == 0x8000_0000


def test_queue_errors_are_distinct() -> None:
    assert sorted(registers.QUEUE_ERROR) == ["bad_tail", "bad_type", "fetch", "reserved"]
    assert len(set(registers.QUEUE_ERROR.values())) == 4
    assert all(0 < code < 16 for code in registers.QUEUE_ERROR.values())
