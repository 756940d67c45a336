"""The request streams are the published ones."""

import pytest

from cocotb_tests.bench.workloads import BASE, WORKLOADS, Item, digest

# Copied from the list with which the other implementation was measured: digest, requests, pages.
PUBLISHED = {
    "hit1": ("2ff3325b82bc39e0", 4000, 1),
    "hit1_write": ("0edacd80f53f3211", 4000, 1),
    "hit8": ("51fececf33030967", 4000, 8),
    "walk_warm": ("da3ff28928a882ad", 64, 65),
    "walk_cold": ("da3ff28928a882ad", 64, 65),
    "rand2000": ("d10f2feef01790c7", 2000, 2000),
    "rand2000_sparse": ("3f3de92c92829c89", 2000, 2000),
    "ws64": ("4d062901ad6779f6", 5000, 64),
    "hot8": ("2464b6089b5a6d83", 5000, 502),
    "seq": ("4cb29ee86adc1ffc", 8192, 512),
    "multidev": ("e83586b9a7e04625", 5000, 64),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_workload_digest_is_the_published_one(name: str) -> None:
    """Digest, number of measured requests and of different pages."""
    workload = WORKLOADS[name]
    items = workload.make()
    pages = len({(item.device, item.page) for item in items})
    assert (digest(items), len(items) - workload.warmup, pages) == PUBLISHED[name]


def test_workloads_are_those_that_were_published() -> None:
    """No more and no fewer names."""
    assert list(WORKLOADS) == list(PUBLISHED)


def test_digest_depends_on_every_field() -> None:
    """A request that differs in one field gives another digest."""
    item = Item(False, 5, 7, 64)
    others = [item._replace(write=True), item._replace(device=6), item._replace(page=8)]
    others.append(item._replace(offset=0))
    assert len({digest([one]) for one in (item, *others)}) == 5
    assert item.address(4096) == BASE + 7 * 4096 + 64
