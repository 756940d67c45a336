"""The bench top: the IOMMU with packed inputs, so that a bench writes a few ports and reads one."""

import functools
from collections.abc import Callable
from typing import Any

from amaranth.back import verilog as verilog_backend
from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cocotb_tests.harness.pins import CONTROL, CONTROL_BITS, RESET_BIT, WIDE_PORTS, payload_width
from pymodel.spec.observation import observation
from pymodel.spec.params import IommuParams

__all__ = ["PORTS_READ", "PORTS_WRITE", "TOPLEVEL", "BenchTop", "verilog"]

TOPLEVEL = "bench_top"
PORTS_READ = ("obs",)
PORTS_WRITE = ("clk", "rst", "control", *WIDE_PORTS)


class BenchTop(wiring.Component):
    """`hdl.iommu.Iommu` behind packed inputs.

    Members: `control` (bits of `pins.CONTROL`, the id of the write ack, reset), `request`, `register_request`
    and `read_data` (payloads, sampled while their valid bit in `control` is 1), `obs` (the packed
    observation).
    """

    def __init__(self, params: IommuParams, component: Callable[[IommuParams], Any] | None = None) -> None:
        """Wrap `component(params)`; the IOMMU unless something else is named."""
        if component is None:
            from hdl.iommu import Iommu  # the benches of the harness itself need no RTL

            component = Iommu
        self._iommu = component(params)
        obs_bits = sum(width for _, width in observation(params))
        wide = {name: In(payload_width(params, port)) for name, port in WIDE_PORTS.items()}
        super().__init__({"control": In(CONTROL_BITS), **wide, "obs": Out(obs_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        iommu = self._iommu
        m.domains.unit = unit = ClockDomain("unit")  # with a reset that a bench can also pull in the middle of a run
        m.d.comb += [unit.clk.eq(ClockSignal()), unit.rst.eq(ResetSignal() | self.control[RESET_BIT])]
        m.submodules.iommu = DomainRenamer("unit")(iommu)
        for bit, name in enumerate(CONTROL):
            port, _, member = name.rpartition("_")
            m.d.comb += getattr(getattr(iommu, port), member).eq(self.control[bit])
        m.d.comb += _bits(iommu.write_acks.payload).eq(self.control[len(CONTROL) : RESET_BIT])
        for name, port in WIDE_PORTS.items():
            m.d.comb += _bits(getattr(iommu, port).payload).eq(getattr(self, name))
        m.d.comb += self.obs.eq(_bits(iommu.obs))
        return m


def _bits(value: Any) -> Any:
    """The bits behind a signal or a view."""
    return value.as_value() if hasattr(value, "as_value") else Cat(value)


@functools.lru_cache(maxsize=8)
def verilog(params: IommuParams) -> str:
    """Verilog of the bench top; the same text on every machine for the same parameters and sources."""
    top = BenchTop(params)
    return str(verilog_backend.convert(top, name=TOPLEVEL, emit_src=False, strip_internal_attrs=True))
