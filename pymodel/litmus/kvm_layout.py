"""Where things are in the memory of the litmus tests with KVM, and what schedules call them.

The root is the RFC's (facts D1): EPT entries with the live marker at bit 59, which VT-d can walk, 4 levels. Empty
entries are 0, so that a new table needs no 512 stores.
"""

from pymodel.explore import Names
from pymodel.kvm.spte import LARGE, SpteFormat, ept, npt
from pymodel.litmus.machine import QUEUE, REUSED, SECRET, STATUS, within

__all__ = ["DATA", "EPT", "FINISHED", "HVA", "LEGEND", "MOVED", "NEW", "NPT", "REQUEST", "RESPONSE", "TABLES",
           "WRITTEN", "A", "B", "host_entry", "host_page", "names", "page_name"]  # fmt: skip

A, B = 0x4000_0000, 0x8000_0000
"""2 MiB of host memory behind the guest's pages, and what the host gives instead."""
DATA, NEW = 0xDA7A, 0x2E3
"""What the pages of `A` and of `B` hold."""
WRITTEN = 0x3A17E
"""What devices and vCPUs write."""
HVA = 0x2000_0000_0000
TABLES = 0x10
"""First frame for tables: the root."""
EPT = ept(suppress_ve_empty=False, marker=59)
NPT = npt(suppress_ve_empty=False)
"""For tests without an IOMMU: VT-d walks no NPT tables, AMD's IOMMU has a format of its own (facts A)."""
LEGEND = {DATA: "page A's data", NEW: "page B's data", WRITTEN: "written", REUSED: "the next owner's data"}
"""For outcomes."""

_HOST_PTES = 0x12_0000
REQUEST, RESPONSE, MOVED = 0x14_0000, 0x14_0008, 0x14_0010
"""Words in the place of the page-request queue and of page-group responses, until there is a device: the number of
the request; the number of the request << 8 | the code. Not 0 once the host is done with a page."""
FINISHED = 0x15_0000
"""Word by which agents tell each other that they are done."""
_WORDS = {REQUEST: "page request", RESPONSE: "page response", MOVED: "page moved", FINISHED: "finished"}


def host_entry(page: int) -> int:
    """Address of the word that is the host's own entry of page `page` of the guest."""
    return _HOST_PTES + 8 * page


def host_page(address: int, writable: bool = True) -> int:
    """Value of a host entry."""
    return address | 2 * writable | 1


def _is_table(frame: int) -> bool:
    return TABLES <= frame < TABLES + 0x40


def page_name(address: int) -> str:
    """Of a table page (by the order in which they were made), of a page that devices are meant to reach, or not."""
    frame = address >> 12
    if _is_table(frame):
        return "root" if frame == TABLES else f"table{frame - TABLES}"
    for letter, start in (("A", A), ("B", B), ("secret", SECRET)):
        if start <= address < start + (512 << 12):
            return f"page {letter}+{frame - (start >> 12)}"
    return hex(address)


def _word(address: int) -> str:
    frame, index = address >> 12, (address & 0xFFF) >> 3
    if _is_table(frame):
        return f"{page_name(address)}[{index}]"
    if frame == _HOST_PTES >> 12:
        return f"host entry {index}"
    if frame == QUEUE >> 12:
        return f"queue+{address & 0xFFF:#x}"
    if frame == STATUS >> 12:
        return f"status {index}"
    return _WORDS.get(address) or within(page_name(address), address)


def names(fmt: SpteFormat = EPT) -> Names:
    """Names of words, and entries of `fmt` and of the host in words: what they point to and what they grant."""

    def value(address: int, word: int) -> str:
        frame = address >> 12
        if frame == _HOST_PTES >> 12:
            return f"{page_name(word & ~0xFFF)} {'rw' if word & 2 else 'r-'}" if word & 1 else "none"
        if not _is_table(frame):
            return hex(word)
        if word == fmt.empty:
            return "empty"
        if word == fmt.frozen:
            return "frozen"
        if not fmt.is_present(word):
            return hex(word)
        rights = (
            ("r", word & fmt.hw_present),
            ("w", fmt.allows(word, write=True, execute=False)),
            ("x", fmt.allows(word, write=False, execute=True)),
        )
        bits = (("A", word & fmt.accessed), ("D", word & fmt.dirty and not _is_table(fmt.pfn(word))))
        granted = "".join(letter if has else "-" for letter, has in rights)
        seen = "".join(f" {letter}" for letter, has in bits if has)
        return f"{'2M ' if word & LARGE else ''}{page_name(fmt.pfn(word) << 12)} {granted}{seen}"

    return Names(_word, value)
