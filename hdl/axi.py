"""AXI4 and AXI4-Lite faces of the IOMMU: memory on an AXI4 manager, registers on an AXI4-Lite subordinate."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hdl.iommu import Iommu
from hdl.layouts import port
from pymodel.spec.observation import observation, read_id_bits
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import LINE_BYTES

__all__ = ["AxiIommu", "AxiManager", "LiteSubordinate", "lite_members", "manager_members"]

_BURST_INCR = 1
_CACHE_WRITE_BACK = 0b1111
_ID_BITS_OF_WRITES = 2
_WRITES_OPEN = 16


def manager_members(params: IommuParams, prefix: str) -> dict[str, wiring.Member]:
    """AXI4 manager: 512-bit data, 64-bit addresses, single-beat bursts, read ids of the native port."""
    identifier = max(read_id_bits(params), _ID_BITS_OF_WRITES)
    members = {}
    for channel in ("aw", "ar"):
        members |= {
            f"{channel}id": Out(identifier),
            f"{channel}addr": Out(64),
            f"{channel}len": Out(8),
            f"{channel}size": Out(3),
            f"{channel}burst": Out(2),
            f"{channel}cache": Out(4),
            f"{channel}prot": Out(3),
            f"{channel}valid": Out(1),
            f"{channel}ready": In(1),
        }
    members |= {
        "wdata": Out(8 * LINE_BYTES),
        "wstrb": Out(LINE_BYTES),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(identifier),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "rid": In(identifier),
        "rdata": In(8 * LINE_BYTES),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }
    return {f"{prefix}_{name}": member for name, member in members.items()}


def lite_members(prefix: str) -> dict[str, wiring.Member]:
    """AXI4-Lite subordinate: 64-bit data, 12-bit address."""
    members = {
        "awaddr": In(12), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
        "wdata": In(64), "wstrb": In(8), "wvalid": In(1), "wready": Out(1),
        "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
        "araddr": In(12), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
        "rdata": Out(64), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
    }  # fmt: skip
    return {f"{prefix}_{name}": member for name, member in members.items()}


class AxiManager(wiring.Component):
    """Native `reads`, `read_data`, `writes`, `write_acks` of `iommu` on an AXI4 manager port, prefix `m_axi`.

    Reads and writes are independent; AW and W of a write are offered together and may be taken in any order.
    Any RRESP but OKAY is an access error, BRESP is not looked at. All writes have AWID 0, so that an event
    message never overtakes the status write before it and acks come in order (P3); at most 16 are
    unacknowledged. Timing: no added cycles.
    """

    def __init__(self, params: IommuParams, iommu: Iommu) -> None:
        self._iommu = iommu
        super().__init__(manager_members(params, "m_axi"))

    def elaborate(self, platform: object) -> Module:
        """Combinational, but for what remembers the half of a write that was taken, and the open writes."""
        m = Module()
        m.submodules.open_writes = open_writes = SyncFIFO(width=_ID_BITS_OF_WRITES, depth=_WRITES_OPEN)
        iommu = self._iommu
        line_shift = LINE_BYTES.bit_length() - 1
        size = Const(line_shift, 3)
        m.d.comb += [
            self.m_axi_arvalid.eq(iommu.reads.valid),
            self.m_axi_arid.eq(iommu.reads.payload.id),
            self.m_axi_araddr.eq(Cat(Const(0, line_shift), iommu.reads.payload.line)),
            self.m_axi_arsize.eq(size),
            self.m_axi_arburst.eq(_BURST_INCR),
            self.m_axi_arcache.eq(_CACHE_WRITE_BACK),
            iommu.reads.ready.eq(self.m_axi_arready),
            self.m_axi_rready.eq(1),
            iommu.read_data.valid.eq(self.m_axi_rvalid),
            iommu.read_data.payload.id.eq(self.m_axi_rid),
            iommu.read_data.payload.data.eq(self.m_axi_rdata),
            iommu.read_data.payload.error.eq(self.m_axi_rresp != 0),
        ]
        writes = iommu.writes
        address_taken, data_taken = Signal(), Signal()
        address_done, data_done = Signal(), Signal()
        offered = Signal()
        dword = writes.payload.address[2:line_shift]
        m.d.comb += [
            offered.eq(writes.valid & open_writes.w_rdy),
            self.m_axi_awvalid.eq(offered & ~address_taken),
            self.m_axi_awaddr.eq(writes.payload.address),
            self.m_axi_awsize.eq(2),
            self.m_axi_awburst.eq(_BURST_INCR),
            self.m_axi_awcache.eq(_CACHE_WRITE_BACK),
            self.m_axi_wvalid.eq(offered & ~data_taken),
            self.m_axi_wdata.word_select(dword, 32).eq(writes.payload.data),
            self.m_axi_wstrb.word_select(dword, 4).eq(0b1111),
            self.m_axi_wlast.eq(1),
            address_done.eq(address_taken | self.m_axi_awready),
            data_done.eq(data_taken | self.m_axi_wready),
            writes.ready.eq(open_writes.w_rdy & address_done & data_done),
            open_writes.w_en.eq(offered & address_done & data_done),
            open_writes.w_data.eq(writes.payload.id),
            self.m_axi_bready.eq(open_writes.r_rdy),
            open_writes.r_en.eq(self.m_axi_bvalid),
            iommu.write_acks.valid.eq(self.m_axi_bvalid & open_writes.r_rdy),
            iommu.write_acks.payload.id.eq(open_writes.r_data),
        ]
        with m.If(offered):
            m.d.sync += [
                address_taken.eq(address_done & ~data_done),
                data_taken.eq(data_done & ~address_done),
            ]
        return m


class LiteSubordinate(wiring.Component):
    """AXI4-Lite port with prefix `s_axil` on the register port of `iommu`; one access at a time, always OKAY.

    Timing: a read is answered two cycles after AR, a write two cycles after the later of AW and W.
    """

    def __init__(self, iommu: Iommu) -> None:
        self._iommu = iommu
        super().__init__(lite_members("s_axil"))

    def elaborate(self, platform: object) -> Module:
        """AW, W and AR wait in registers of their own; every ready is a register's inverse."""
        m = Module()
        request, response = self._iommu.register_requests, self._iommu.register_responses
        held = {}
        for channel, fields in (("aw", ("addr",)), ("w", ("data", "strb")), ("ar", ("addr",))):
            full = Signal(name=f"{channel}_full")
            held[channel] = full
            valid = getattr(self, f"s_axil_{channel}valid")
            m.d.comb += getattr(self, f"s_axil_{channel}ready").eq(~full)
            with m.If(valid & ~full):
                m.d.sync += full.eq(1)
            for field in fields:
                source = getattr(self, f"s_axil_{channel}{field}")
                register = Signal.like(source, name=f"{channel}_{field}_held")
                held[f"{channel}{field}"] = register
                with m.If(valid & ~full):
                    m.d.sync += register.eq(source)
        busy, writing = Signal(), Signal()
        write = held["aw"] & held["w"]
        m.d.comb += [
            request.valid.eq(~busy & (write | held["ar"])),
            request.payload.write.eq(write),
            request.payload.address.eq(Mux(write, held["awaddr"], held["araddr"])),
            request.payload.data.eq(held["wdata"]),
            request.payload.strobe.eq(held["wstrb"]),
            self.s_axil_bvalid.eq(busy & writing & response.valid),
            self.s_axil_rvalid.eq(busy & ~writing & response.valid),
            self.s_axil_rdata.eq(response.payload.data),
            response.ready.eq(Mux(writing, self.s_axil_bready, self.s_axil_rready)),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += [busy.eq(1), writing.eq(write)]
            with m.If(write):
                m.d.sync += [held["aw"].eq(0), held["w"].eq(0)]
            with m.Else():
                m.d.sync += held["ar"].eq(0)
        with m.If(busy & response.valid & response.ready):
            m.d.sync += busy.eq(0)
        return m


class AxiIommu(wiring.Component):
    """`Iommu` with memory on AXI4 (`m_axi_*`), registers on AXI4-Lite (`s_axil_*`), native translations.

    Raises `ValueError` as `Iommu` does.
    """

    def __init__(self, params: IommuParams) -> None:
        self.params = params
        self._iommu = Iommu(params)
        super().__init__(
            {
                "requests": In(port(params, "requests")),
                "hits": Out(port(params, "hits")),
                "completions": Out(port(params, "completions")),
                "obs": Out(sum(width for _, width in observation(params))),
                **manager_members(params, "m_axi"),
                **lite_members("s_axil"),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Three blocks side by side."""
        m = Module()
        m.submodules.iommu = iommu = self._iommu
        m.submodules.manager = manager = AxiManager(self.params, iommu)
        m.submodules.subordinate = subordinate = LiteSubordinate(iommu)
        wiring.connect(m, wiring.flipped(self.requests), iommu.requests)
        wiring.connect(m, iommu.hits, wiring.flipped(self.hits))
        wiring.connect(m, iommu.completions, wiring.flipped(self.completions))
        m.d.comb += self.obs.eq(iommu.obs)
        for members, block in (
            (manager_members(self.params, "m_axi"), manager),
            (lite_members("s_axil"), subordinate),
        ):
            for name, member in members.items():
                outer, inner = getattr(self, name), getattr(block, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m
