"""Which kernel's host is modelled."""

import pytest

from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HOST_6_13, HostKernel, kernel_for


@pytest.mark.parametrize(
    ("number", "kernel"),
    [((5, 10), HOST_6_1), ((6, 1), HOST_6_1), ((6, 2), HOST_6_7), ((6, 9), HOST_6_7), ((6, 10), HOST_6_12),
     ((6, 12), HOST_6_12), ((6, 13), HOST_6_13), ((7, 0), HOST_6_13)],
)  # fmt: skip
def test_newest_model_that_is_not_newer(number: tuple[int, int], kernel: HostKernel) -> None:
    assert kernel_for(number) is kernel
