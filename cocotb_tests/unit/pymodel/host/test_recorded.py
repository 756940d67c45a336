"""The recorded primary MMU: lookups, in-step states, zero pages, refusals."""

import pytest

from pymodel.host.recorded import RecordedHost
from pymodel.host.regions import Region

_A = 0x2000_4020_0000


@pytest.fixture
def host() -> RecordedHost:
    made = RecordedHost()
    made.regions.add(Region(_A, 0x200000, "anon4k"))
    made.begin([(1, (1, _A, 1, 0x1000867)), (1, (1, _A + 0x1000, 1, 0x2000865))])
    made.finish()
    return made


def test_mapped_page_is_answered_without_the_recording(host: RecordedHost) -> None:
    assert host.resolve(1, _A, True, None) == (0x1000, True)
    assert host.resolve(1, _A + 0x1000, False, None) == (0x2000, False)
    assert host.oracle_frames == 0


def test_refused_access(host: RecordedHost) -> None:
    assert host.resolve(1, _A + 0x1000, True, None) is None


def test_page_that_comes_in_during_the_step(host: RecordedHost) -> None:
    host.begin([(1, (1, _A + 0x2000, 1, 0x3000867))])
    assert host.lookup(1, _A + 0x2000) is None
    assert host.resolve(1, _A + 0x2000, True, None) == (0x3000, True)
    assert host.lookup(1, _A + 0x2000) is not None


def test_zero_page_in_passing_comes_from_the_recording(host: RecordedHost) -> None:
    host.begin([(1, (1, _A + 0x2000, 1, 0x3000867))])
    assert host.resolve(1, _A + 0x2000, False, (0x3738, False)) == (0x3738, False)
    assert host.resolve(1, _A + 0x2000, True, None) == (0x3000, True)
    assert host.oracle_frames == 1
    host.finish()
    entry = host.lookup(1, _A + 0x2000)
    assert entry is not None
    assert entry.pfn(_A + 0x2000) == 0x3000


def test_settled_range_is_as_at_the_end(host: RecordedHost) -> None:
    host.begin([(1, (1, _A, 1, None))])
    assert host.lookup(1, _A) is not None
    host.settle(_A, _A + 0x1000)
    assert host.lookup(1, _A) is None
