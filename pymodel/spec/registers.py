"""Register map of one remapping unit (facts B1). Offsets in bytes; every register is read and written little-endian."""

from collections.abc import Mapping
from dataclasses import dataclass

from pymodel.spec.fields import Field, Format

__all__ = ["CAP", "ECAP", "EVENT_CONTROL", "FAULT_RECORD_OFFSET", "FSTS", "GCMD", "ICS", "IQA", "IQER", "QUEUE_ERROR",
           "QUEUE_POINTER", "REGISTERS", "Register", "VERSION"]  # fmt: skip

_SOURCE = "facts B1: Linux intel/iommu.h"

VERSION = 0x60
"""VER: major 6, which has no register-based invalidation (CCMD, IVA and IOTLB registers read as zero)."""

FAULT_RECORD_OFFSET = 0x200
"""Byte offset of fault record 0 (CAP.FRO * 16); records are 16 bytes apart."""


@dataclass(frozen=True)
class Register:
    """One register: offset and size in bytes."""

    name: str
    offset: int
    size: int
    access: str
    """"ro", "rw", "wo", "rw1c" or "mixed"."""
    doc: str = ""


REGISTERS: Mapping[str, Register] = {
    register.name: register
    for register in (
        Register("VER", 0x00, 4, "ro", "version"),
        Register("CAP", 0x08, 8, "ro", "capabilities"),
        Register("ECAP", 0x10, 8, "ro", "extended capabilities"),
        Register("GCMD", 0x18, 4, "wo", "global command"),
        Register("GSTS", 0x1C, 4, "ro", "global status"),
        Register("RTADDR", 0x20, 8, "rw", "root table and mode; taken over by GCMD.SRTP"),
        Register("FSTS", 0x34, 4, "mixed", "fault status"),
        Register("FECTL", 0x38, 4, "mixed", "fault event control"),
        Register("FEDATA", 0x3C, 4, "rw", "fault event message data"),
        Register("FEADDR", 0x40, 4, "rw", "fault event message address, low"),
        Register("FEUADDR", 0x44, 4, "rw", "fault event message address, high"),
        Register("IQH", 0x80, 8, "ro", "queue head, byte offset"),
        Register("IQT", 0x88, 8, "rw", "queue tail, byte offset"),
        Register("IQA", 0x90, 8, "rw", "queue address, width and size"),
        Register("ICS", 0x9C, 4, "rw1c", "invalidation completion status"),
        Register("IECTL", 0xA0, 4, "mixed", "invalidation event control"),
        Register("IEDATA", 0xA4, 4, "rw", "invalidation event message data"),
        Register("IEADDR", 0xA8, 4, "rw", "invalidation event message address, low"),
        Register("IEUADDR", 0xAC, 4, "rw", "invalidation event message address, high"),
        Register("IQER", 0xB0, 8, "ro", "invalidation queue error record"),
    )
}

GCMD = Format(
    "GCMD",
    32,
    Field("qie", 26, 1, "queued invalidation enable"),
    Field("srtp", 30, 1, "set root table pointer (one-shot)"),
    Field("te", 31, 1, "translation enable"),
    source=_SOURCE + "; GSTS has QIES, RTPS and TES at the same bits; other commands have no effect",
)

CAP = Format(
    "CAP",
    64,
    Field("nd", 0, 3, "6: 16-bit domain ids"),
    Field("cm", 7, 1, "caching mode (K3)"),
    Field("sagaw", 8, 5, "bit 1: 39 bits, bit 2: 48 bits, bit 3: 57 bits"),
    Field("mgaw", 16, 6, "widest IOVA in bits, minus 1"),
    Field("fro", 24, 10, "fault records at FRO*16"),
    Field("sslps", 34, 4, "bit 0: 2 MiB, bit 1: 1 GiB"),
    Field("psi", 39, 1, "page-selective invalidation"),
    Field("nfr", 40, 8, "number of fault records, minus 1"),
    Field("mamv", 48, 6, "largest AM"),
    Field("dwd", 54, 1, "drain writes"),
    Field("drd", 55, 1, "drain reads"),
    source=_SOURCE,
)

ECAP = Format(
    "ECAP",
    64,
    Field("c", 0, 1, "page walks are coherent"),
    Field("qi", 1, 1, "queued invalidation"),
    Field("pt", 6, 1, "pass-through"),
    Field("sc", 7, 1, "snoop control"),
    Field("pss", 35, 5, "PASID bits, minus 1"),
    Field("pasid", 40, 1, "requests with PASID"),
    Field("smts", 43, 1, "scalable mode"),
    Field("ssts", 46, 1, "second stage in scalable mode"),
    Field("smpwc", 48, 1, "scalable-mode page walks are coherent"),
    source=_SOURCE,
)

FSTS = Format(
    "FSTS",
    32,
    Field("pfo", 0, 1, "fault overflow, RW1C"),
    Field("ppf", 1, 1, "some record has F set, RO"),
    Field("iqe", 4, 1, "invalidation queue error, RW1C"),
    Field("fri", 8, 8, "record that was written when PPF rose, RO"),
    source=_SOURCE,
)

EVENT_CONTROL = Format(
    "EVENT_CONTROL",
    32,
    Field("ip", 30, 1, "message pending, RO"),
    Field("im", 31, 1, "message masked"),
    source=_SOURCE + "; FECTL and IECTL; IM is 1 after reset",
)

ICS = Format("ICS", 32, Field("iwc", 0, 1, "a wait with IF completed, RW1C"), source=_SOURCE)

IQA = Format(
    "IQA",
    64,
    Field("qs", 0, 3, "2**(QS+8) descriptors of 128 bits, 2**(QS+7) of 256: 2**(QS+12) bytes either way"),
    Field("dw", 11, 1, "1: descriptors are 256 bits wide"),
    Field("address", 12, 52, "queue, bits 63:12"),
    source=_SOURCE + ", QEMU",
)

QUEUE_POINTER = Format(
    "QUEUE_POINTER", 64, Field("offset", 4, 15, "byte offset bits 18:4"), source=_SOURCE + "; IQH and IQT"
)

IQER = Format("IQER", 64, Field("iqei", 0, 4, "queue error information"), source=_SOURCE)

QUEUE_ERROR: Mapping[str, int] = {
    "bad_tail": 1,
    "fetch": 2,
    "bad_type": 3,
    "reserved": 4,
}
"""IQER.IQEI codes; the numbers are SPEC-K (the facts name the field, not its values)."""
