"""cocotb bench of the AXI faces: the bus models of cocotbext-axi as memory and as register software.

Tables, descriptors and records are literal numbers here, not built with the model. The translation streams
are driven at falling edges, the bus models work at rising ones.
"""

import itertools
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, FallingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave, Region

from cocotb_tests.harness.bench_io import bench_parameters, report_result
from cocotb_tests.harness.ports import start_clock

RAM_BYTES = 0x1_0000
ROOT, CONTEXTS, TABLE_4, TABLE_3, TABLE_2, TABLE_1, QUEUE, STATUS = range(0x1000, 0x9000, 0x1000)
MESSAGES = 0xFEE0_0000
SID = 0x0018
MASTER_CHANNELS = {
    "ar": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "aw": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "w": ("data", "strb", "last"),
}
LITE_CHANNELS = {"r": ("data", "resp"), "b": ("resp",)}


class Memory(Region):
    """RAM from 0 to RAM_BYTES and a page of message-signalled interrupts; anything else answers SLVERR."""

    def __init__(self) -> None:
        super().__init__(1 << 52)
        self.ram = bytearray(RAM_BYTES)
        self.reads: list[int] = []
        self.writes: list[tuple[int, bytes]] = []

    async def _read(self, address: int, length: int, **_: Any) -> bytes:
        self.reads.append(address)
        if address + length > RAM_BYTES:
            raise ValueError("no memory there")
        return bytes(self.ram[address : address + length])

    async def _write(self, address: int, data: bytes, **_: Any) -> None:
        self.writes.append((address, bytes(data)))
        if address + len(data) <= RAM_BYTES:
            self.ram[address : address + len(data)] = data
        elif address >> 20 != MESSAGES >> 20:
            raise ValueError("no memory there")

    def words(self, address: int, *values: int) -> None:
        """Store 64-bit words."""
        for position, value in enumerate(values):
            at = address + 8 * position
            self.ram[at : at + 8] = value.to_bytes(8, "little")


class Bench:
    """The design with its bus models, drivers of the translation streams and passive checkers."""

    def __init__(self, dut: Any, pauses: float) -> None:
        self.dut, self.memory = dut, Memory()
        rng = random.Random(bench_parameters()["pause_seed"])
        self.slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory)
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        if pauses:
            write, read = self.slave.write_if, self.slave.read_if
            lite_write, lite_read = self.master.write_if, self.master.read_if
            for channel in (
                write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel,
                lite_write.aw_channel, lite_write.w_channel, lite_write.b_channel,
                lite_read.ar_channel, lite_read.r_channel,
            ):  # fmt: skip
                channel.set_pause_generator(_pauses(rng.getrandbits(32), pauses))
        self.rng, self.pauses = rng, pauses
        self.answers: dict[int, dict[str, int]] = {}
        self.tail = 0
        self.checked = dict.fromkeys([*MASTER_CHANNELS, *LITE_CHANNELS], 0)
        self.held = dict.fromkeys(self.checked, 0)
        self.response_distance: set[int] = set()

    async def start(self) -> None:
        """Clock, reset, background tasks."""
        dut = self.dut
        dut.rst.value = 1
        dut.requests__valid.value = 0
        dut.requests__payload.value = 0
        dut.hits__ready.value = 1
        dut.completions__ready.value = 1
        self.edge = await start_clock(dut.clk)
        for _ in range(4):
            await self.edge
        dut.rst.value = 0
        await self.edge
        cocotb.start_soon(self._collect())
        cocotb.start_soon(self._check_stability())
        cocotb.start_soon(self._check_register_latency())

    async def _collect(self) -> None:
        """Take answers, with random readiness when there are pauses."""
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            for port in ("hits", "completions"):
                ready = self.rng.random() >= self.pauses  # what the coming rising edge sees
                getattr(dut, f"{port}__ready").value = int(ready)
                if ready and _one(getattr(dut, f"{port}__valid")):
                    payload = int(getattr(dut, f"{port}__payload").value)
                    answer = {"port": port == "hits", "reason": payload >> 8 & 0xFF, "address": payload >> 16}
                    answer["address"] &= (1 << 64) - 1
                    answer["level"] = payload >> 80 & 3
                    assert self.answers.get(payload & 0xFF) is None, "two answers for one tag"
                    self.answers[payload & 0xFF] = answer

    async def _check_stability(self) -> None:
        """P1 on every channel that the design drives: what was offered and not taken stays."""
        dut = self.dut
        channels = [("m_axi", name, fields) for name, fields in MASTER_CHANNELS.items()]
        channels += [("s_axil", name, fields) for name, fields in LITE_CHANNELS.items()]
        offered: dict[str, tuple[int, ...] | None] = {}
        while True:
            await dut.clk.rising_edge  # values of the cycle that ends here
            for prefix, name, fields in channels:
                port = f"{prefix}_{name}"
                valid, ready = _one(getattr(dut, f"{port}valid")), _one(getattr(dut, f"{port}ready"))
                payload = None
                if valid:
                    payload = tuple(int(getattr(dut, f"{port}{field}").value) for field in fields)
                before = offered.get(port)
                assert before is None or payload == before, f"P1: {port} changed from {before} to {payload}"
                offered[port] = None if ready else payload
                self.checked[name] += bool(valid and ready)
                self.held[name] += bool(valid and not ready)

    async def _check_register_latency(self) -> None:
        """Cycles from the AR handshake to RVALID."""
        dut, since, cycle = self.dut, deque[int](), 0
        while True:
            await dut.clk.rising_edge
            cycle += 1
            if since and _one(dut.s_axil_rvalid):
                self.response_distance.add(cycle - since.popleft())
                while not _one(dut.s_axil_rready):
                    await dut.clk.rising_edge
                    cycle += 1
            if _one(dut.s_axil_arvalid) and _one(dut.s_axil_arready):
                since.append(cycle)

    async def translate(self, iova: int, tag: int, write: bool = False) -> dict[str, int]:
        """Ask for one translation and wait for the answer."""
        dut = self.dut
        await self.edge  # the bus models return at rising edges
        dut.requests__payload.value = tag | SID << 8 | iova << 45 | int(write) << 109
        dut.requests__valid.value = 1
        await self.edge  # one rising edge went by: taken if ready was 1, which it is when nothing waits
        dut.requests__valid.value = 0
        for _ in range(3000):
            if tag in self.answers:
                return self.answers.pop(tag)
            await self.edge
        raise AssertionError(f"no answer for iova {iova:#x}; reads: {[*map(hex, self.memory.reads)]}")

    async def submit(self, *descriptors: tuple[int, int]) -> None:
        """Put 128-bit descriptors into the queue and write its tail register."""
        for low, high in descriptors:
            self.memory.words(QUEUE + self.tail, low, high)
            self.tail = (self.tail + 16) % 4096
        await self.master.write_qword(0x88, self.tail)

    async def wait_for(self, address: int, value: int) -> None:
        """Wait until a dword of the memory has the value."""
        for _ in range(5000):
            if int.from_bytes(self.memory.ram[address : address + 4], "little") == value:
                return
            await self.edge
        raise AssertionError(f"the dword at {address:#x} never became {value:#x}")

    def tables(self) -> None:
        """Legacy mode; device 0:3.0 in domain 0x77 with a 4-level table."""
        words = self.memory.words
        words(ROOT, CONTEXTS | 1, 0)
        words(CONTEXTS + 16 * SID, TABLE_4 | 1, 0x7702)
        words(TABLE_4, TABLE_3 | 3)
        words(TABLE_3, TABLE_2 | 3, 0x0000_0080_4000_0083)  # entry 1: 1 GiB
        words(TABLE_2, TABLE_1 | 3, 0x0000_0000_C060_0083, 0x0000_00FF_0000_0003)  # 1: 2 MiB; 2: no memory
        words(TABLE_1, 0x0000_0001_2345_6003, 0x0000_0002_0000_0001)  # 0: rw; 1: r only

    async def enable(self) -> None:
        """Root table, queue, translation; what CAP and GSTS say on the way."""
        master = self.master
        assert await master.read_dword(0x00) == 0x60
        capabilities = await master.read_qword(0x08)
        assert capabilities >> 8 & 0x1F == 0b01110
        assert await master.read_dword(0x0C) == capabilities >> 32
        await master.write_qword(0x20, ROOT)
        await master.write_dword(0x18, 1 << 30)
        await master.write_qword(0x90, QUEUE)
        await master.write_dword(0x18, 1 << 26)
        await master.write_dword(0x18, 1 << 26 | 1 << 31)
        assert await master.read_dword(0x1C) == 1 << 31 | 1 << 30 | 1 << 26


def _one(handle: Any) -> bool:
    """Whether a one-bit port is 1 (an unknown one is not)."""
    return str(handle.value) == "1"


def _pauses(seed: int, chance: float) -> Iterator[bool]:
    """Pauses in bursts: a channel that never stalls long and never runs freely."""
    rng = random.Random(seed)
    for _ in itertools.count():
        yield from itertools.repeat(rng.random() < chance, rng.randint(1, 4))


INVALIDATE_ALL = (0x12, 0)
WAIT_STATUS = 0x25


@cocotb.test()
async def everything(dut: Any) -> None:
    """Translate each page size, invalidate, fault, read and clear the record, get the events."""
    await with_timeout(_everything(dut, bench_parameters()["pauses"]), 400, "us")


async def _everything(dut: Any, pauses: float) -> None:
    bench = Bench(dut, pauses)
    bench.tables()
    await bench.start()
    memory, master = bench.memory, bench.master
    await bench.enable()

    for tag, (iova, address, level) in enumerate(
        (
            (0x0000_0123, 0x1_2345_6123, 0), (0x0000_0FFF, 0x1_2345_6FFF, 0), (0x0000_1008, 0x2_0000_0008, 0),
            (0x0020_0ABC, 0xC060_0ABC, 1), (0x003F_FFFF, 0xC07F_FFFF, 1),
            (0x4000_0001, 0x80_4000_0001, 2), (0x7FFF_FFFF, 0x80_7FFF_FFFF, 2),
        )
    ):  # fmt: skip
        answer = await bench.translate(iova, tag)
        found = answer["reason"], answer["address"], answer["level"]
        assert found == (0, address, level), f"{iova:#x} {answer}"
    assert bench.memory.reads[:6] == [
        ROOT, (CONTEXTS + 16 * SID) & ~63, TABLE_4, TABLE_3, TABLE_2, TABLE_1,
    ]  # fmt: skip
    assert len(memory.reads) == 8, "page walks end at the large pages, and every other answer is a hit"

    # A cached page stays translated until its invalidation; the status write changes one dword only.
    memory.words(STATUS, 0x1111_1111_2222_2222, 0x3333_3333_4444_4444)
    memory.words(TABLE_1, 0)
    assert (await bench.translate(0x0000_0123, 20))["reason"] == 0
    await bench.submit(INVALIDATE_ALL, (WAIT_STATUS | 0xCAFE_F00D << 32, STATUS + 4))
    await bench.wait_for(STATUS + 4, 0xCAFE_F00D)
    assert memory.ram[STATUS : STATUS + 16].hex() == "222222220df0feca4444444433333333"
    assert await master.read_qword(0x80) == 0x20, "the queue head"
    assert (await bench.translate(0x0000_0123, 21))["reason"] == 0x06

    # The fault record, and its event once it is unmasked.
    assert await master.read_dword(0x34) == 0b10
    assert (await master.read_qword(0x200), await master.read_qword(0x208)) == (0, SID | 0xC000_0006 << 32)
    await master.write_dword(0x3C, 0x41)
    await master.write_dword(0x40, MESSAGES)
    await master.write_dword(0x38, 0)
    await ClockCycles(dut.clk, 60)
    assert memory.writes[-1] == (MESSAGES, (0x41).to_bytes(4, "little"))
    await master.write(0x20F, b"\x80")
    assert await master.read_dword(0x34) == 0
    assert await master.read_dword(0x20C) == 0x4000_0006
    written = await bench.translate(0x0000_1000, 22, write=True)
    assert written["reason"] == 0x05
    assert await master.read_dword(0x20C) >> 30 == 0b10, "a write: T is 0"
    await master.write(0x20C, bytes.fromhex("00000080"))

    # SLVERR on a table read is an access error.
    assert (await bench.translate(0x0040_0000, 23))["reason"] == 0x07
    assert memory.reads[-1] == 0xFF_0000_0000

    await _many_writes(bench)
    counts = {"checked": bench.checked, "held": bench.held, "distance": sorted(bench.response_distance)}
    report_result({**counts, "writes": len(memory.writes), "reads": len(memory.reads)})


async def _many_writes(bench: Bench) -> None:
    """40 status writes and as many events in a row: each arrives once and in order."""
    memory = bench.memory
    await bench.master.write_dword(0xA4, 0x99)
    await bench.master.write_dword(0xA8, MESSAGES + 16)
    await bench.master.write_dword(0xA0, 0)
    before = len(memory.writes)
    for start in range(1, 41, 8):
        numbers = range(start, start + 8)
        await bench.submit(*((WAIT_STATUS | 0x10 | n << 32, STATUS + 64 + 4 * n) for n in numbers))
        await bench.wait_for(STATUS + 64 + 4 * (start + 7), start + 7)
        await bench.master.write_dword(0x9C, 1)
    await ClockCycles(bench.dut.clk, 80)
    written = memory.writes[before:]
    status = [int.from_bytes(data, "little") for address, data in written if address < RAM_BYTES]
    assert status == list(range(1, 41))
    messages = [data for address, data in written if address == MESSAGES + 16]
    assert 5 <= len(messages) <= 40, f"{len(messages)} completion events"
    assert len(status) + len(messages) == len(written)
    assert await bench.master.read_qword(0x80) == bench.tail
    assert written[0][0] < RAM_BYTES, "the status write comes before its event"
