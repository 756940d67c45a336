"""Parameters that no kernel or CPU offers are refused with one line; the invalidation count (facts C1, C2)."""

from typing import Any

import pytest

from pymodel.kvm.errors import E2BIG, EINVAL, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import SpteFormat, ept
from pymodel.kvm.version import V6_7, V6_12
from pymodel.kvm.vm import KvmParams, Vm

_EPT = ept(suppress_ve_empty=True)


class _Host:
    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        return 1


@pytest.mark.parametrize(
    ("params", "fmt", "errno", "text"),
    [
        ({"root_level": 3}, None, EINVAL, "root_level must be 4 or 5, not 3"),
        ({"max_level": 4}, None, EINVAL, "max_level must be 1 (4K), 2 (2M) or 3 (1G), not 4"),
        ({"gfn_bits": 31}, None, EINVAL, "gfn_bits must be 32..52, not 0x1f"),
        ({"recovery_ratio": -1}, None, EINVAL, "recovery_ratio must be at least 0, not -1"),
        ({"initially_set": True}, None, EINVAL, "initially_set must be False without manual_protect, not True"),
        ({"log_by_dirty_bit": True}, None, EINVAL,
         "log_by_dirty_bit must be False for npt with ad_enabled=True, not True"),
        ({"log_by_dirty_bit": True}, ept(suppress_ve_empty=True, ad_enabled=False), EINVAL,
         "log_by_dirty_bit must be False for ept with ad_enabled=False, not True"),
        ({"dirty_ring_size": 300}, None, EINVAL,
         "dirty_ring_size must be 0 or a power of two in 256..65536, not 0x12c"),
        ({"dirty_ring_size": 128}, None, EINVAL, "dirty_ring_size must be 0 or a power of two in 256..65536, not 0x80"),
        ({"dirty_ring_size": 1 << 17}, None, E2BIG,
         "dirty_ring_size must be 0 or a power of two in 256..65536, not 0x20000"),
        ({"dirty_ring_size": 512, "log_by_dirty_bit": True}, _EPT, EINVAL,
         "dirty_ring_size must be 0 or a power of two in 577..65536, not 0x200"),
    ],
)  # fmt: skip
def test_params_wrong_value(params: dict[str, Any], fmt: SpteFormat | None, errno: int, text: str) -> None:
    with pytest.raises(KvmError) as caught:
        Vm(V6_12, _Host(), lambda: 1, fmt=fmt, params=KvmParams(**params))
    assert (str(caught.value), caught.value.errno) == (text, errno)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("params", "fmt"),
    [
        ({"root_level": 5, "gfn_bits": 52}, None),
        ({"log_by_dirty_bit": True, "dirty_ring_size": 1024}, _EPT),
        ({"manual_protect": True, "initially_set": True}, None),
        ({"dirty_ring_size": 65536}, None),
    ],
)
def test_params_at_their_limits_are_taken(params: dict[str, Any], fmt: SpteFormat | None) -> None:
    assert Vm(V6_12, _Host(), lambda: 1, fmt=fmt, params=KvmParams(**params)).vcpus == []


def test_retry_compares_the_kernel_s_own_kind_of_number() -> None:
    for version, inside in ((V6_7, (5, 0x1000)), (V6_12, (0x1000, 5))):
        vm = Vm(version, _Host(), lambda: 1)
        vm.begin_invalidation(0x1000, 0x2000)
        assert vm.retry(0, *inside)
        assert not vm.retry(0, *reversed(inside))
        vm.end_invalidation()
        assert vm.retry(0, 9, 9)
        assert not vm.retry(1, *inside)
