"""Taking entries away: what goes, what is announced, and when the page is free."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.effects import HostPteChanged, PageReused
from pymodel.host.files import HugetlbFile, MemFile
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HostKernel
from pymodel.host.notifier import MmuEvent
from pymodel.host.vma import Vma
from pymodel.host.zap import Gather, unmap_pages, zap_range, zap_single

CLEAR, UNMAP = MmuEvent.CLEAR, MmuEvent.UNMAP


def mapping(setting: Setting, hva: int = A) -> Vma:
    found = setting.mm.vmas.find(hva)
    assert found is not None
    return found


def test_pages_are_freed_behind_the_end() -> None:
    """Order of call, store and reuse (mmu_gather)."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 1)
    order: list[str] = []
    for effect in zap_single(setting.mm, mapping(setting), A, A + 2 * PAGE):
        if isinstance(effect, HostPteChanged | PageReused):
            order.append(type(effect).__name__)
            order += [name for name, *_ in setting.spy.calls]
    assert order == ["HostPteChanged", "start", "PageReused", "start", "end"]
    balance(setting.host)


def test_gathered_pages_are_kept_until_the_caller_is_done() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 1)
    folio, gather = setting.folio(A), Gather()
    setting.run(setting.mm.invalidate_start(A, A + 2 * PAGE, CLEAR))
    setting.run(zap_range(setting.mm, mapping(setting), A, A + 2 * PAGE, gather))
    assert (gather.folios, folio.refs, folio.mappings) == ([folio], 1, {})
    setting.run(gather.finish(setting.host))
    assert (setting.reused, gather.folios) == ([folio.frame], [])
    balance(setting.host)


def test_private_copies_stay_where_only_file_pages_go() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(3 * PAGE, "memfd", file=file, shared=False)
    setting.put(A, 1)
    setting.get(A + PAGE)
    setting.run(unmap_pages(setting.mm, mapping(setting), A, A + 3 * PAGE))
    assert (setting.level(A), setting.level(A + PAGE)) == (1, 0)
    assert setting.calls == [("start", 0, 3 * PAGE, CLEAR), ("end", 0, 3 * PAGE, CLEAR)]
    balance(setting.host, [file])


@pytest.mark.parametrize(("kernel", "event"), [(HOST_6_1, UNMAP), (HOST_6_12, CLEAR)])
def test_hugetlb_pages_are_announced_once(kernel: HostKernel, event: MmuEvent) -> None:
    """unmap_hugepage_range: before 6.2 __unmap_hugepage_range does it alone."""
    setting = Setting(kernel, huge=1)
    file = HugetlbFile(setting.host.pools[2])
    setting.map(HUGE, "hugetlb2m", file=file)
    setting.put(A, 1)
    setting.run(unmap_pages(setting.mm, mapping(setting), A, A + HUGE))
    assert setting.calls == [("start", 0, HUGE, event), ("end", 0, HUGE, event)]
    balance(setting.host, [file])
