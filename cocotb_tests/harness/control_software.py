"""Software besides the page tables: device entries, waits, malformed descriptors, fault log, events,
register reads."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cocotb_tests.harness.host import Device, Domain, Host, no_operation
from cocotb_tests.harness.lockstep import LockStep
from pymodel.effects import Agent, Delay, Load, ReadRegister, Store, WriteRegister
from pymodel.spec import descriptors as d
from pymodel.spec.context import PASID_ENTRY, SCALABLE_CONTEXT, TTM_ABORT
from pymodel.spec.registers import EVENT_CONTROL, FAULT_RECORD_OFFSET, FSTS, GCMD, REGISTERS

__all__ = ["ControlSoftware"]

_OFFSET = {name: register.offset for name, register in REGISTERS.items()}
_FAULT = 1 << 31  # F in the upper dword of a record


@dataclass
class ControlSoftware:
    """Several agents around one host; each runs until the bench stops."""

    bench: LockStep
    host: Host
    rng: random.Random
    pause: int = 150
    """Longest pause of an agent between two things it does, cycles."""

    def _breath(self, factor: int = 1) -> Agent[None]:
        yield Delay(self.rng.randrange(1, self.pause * factor + 1))

    # --- device entries ------------------------------------------------------------------------------------

    def devices(self, devices: Sequence[Device], domains: Sequence[Domain]) -> Agent[None]:
        """Attach, detach and change device entries."""
        rng, host = self.rng, self.host
        while not self.bench.stopping:
            yield from self._breath(6)
            device = rng.choice(devices)
            before = device.domain.did if device.domain else device.did
            if rng.random() < 0.25:
                yield from self._tamper(device)
                continue
            yield from host.detach(device)
            if rng.random() < 0.85:
                yield from self._forget(device, before)
            if rng.random() < 0.3:
                yield from self._breath(3)
            if rng.random() < 0.6:
                through = host.params.pass_through and rng.random() < 0.2
                device.domain = None if through else rng.choice(domains)
            device.fpd = int(rng.random() < 0.15)
            device.pgsnp = int(host.params.snoop_control and rng.random() < 0.3)
            yield from host.attach(device)
            if rng.random() < 0.3:
                yield from self._forget(device, before)
        for device in devices:
            yield from host.attach(device)

    def _forget(self, device: Device, did: int) -> Agent[None]:
        """Invalidate the cached entry of a device, sometimes much more."""
        rng, host = self.rng, self.host
        kind = rng.choices(("one", "domain", "global", "context"), (60, 15, 15, 10))[0]
        values = host.context_descriptors(device, did)
        if kind == "domain":
            if host.scalable:
                values = [d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=0, did=did)]
            else:
                values = [d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=d.Granularity.DOMAIN, did=did)]
        elif kind == "global":
            if host.scalable:
                values = [d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=3)]
            else:
                values = [d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=d.Granularity.GLOBAL)]
        elif kind == "context":
            fm = rng.randrange(4)
            values = [
                d.CONTEXT_INV.pack(
                    type=d.DescriptorType.CONTEXT,
                    g=d.Granularity.SELECTIVE,
                    did=did,
                    sid=device.sid ^ (fm and 4),
                    fm=fm,
                )
            ]
        if rng.random() < 0.7:
            values.append(host.domain_descriptor(did))
        if rng.random() < 0.8:
            yield from host.sync(*values, interrupt=rng.randrange(2), fence=rng.randrange(2))
        else:
            yield from host.submit(*values)

    def _tamper(self, device: Device) -> Agent[None]:
        """Set a bit of the entry, or of the context entry above it; put it back later."""
        rng, host = self.rng, self.host
        address = host.entry_address(device)
        if host.scalable:
            bits = [bit for bit in range(128) if PASID_ENTRY.reserved >> bit & 1]
            bits += [1, *range(2, 5), *range(6, 9), 52, 59]
        else:
            bits = [1, 2, 3, *range(4, 12), 52, 60, 64, 65, 66, 71, 90, 120]
        if host.scalable and rng.random() < 0.3:
            contexts, _ = host._table(1, device.sid >> 8, device.sid >> 7 & 1)
            address = contexts + 32 * (device.sid & 127)
            bits = [bit for bit in range(256) if SCALABLE_CONTEXT.reserved >> bit & 1] + [1, 3, 0, 64, 66, 83]
        bit = rng.choice(bits)
        place = address + (bit >> 3 & ~7)
        old: int = yield Load(place)
        yield Store(place, old ^ 1 << (bit & 63))
        did = device.domain.did if device.domain else device.did
        yield from self._forget(device, did)
        yield from self._breath(2)
        yield Store(place, old)
        yield from self._forget(device, did)

    # --- the queue -----------------------------------------------------------------------------------------

    def waits(self) -> Agent[None]:
        """Waits with every mix of status write, interrupt and fence, alone and in groups."""
        rng, host = self.rng, self.host
        while not self.bench.stopping:
            yield from self._breath(2)
            values = []
            for _ in range(rng.choice((1, 1, 2, 3, 5))):
                value, _, _ = host.wait_descriptor(interrupt=rng.randrange(2), fence=rng.randrange(2))
                if rng.random() < 0.4:
                    value = d.WAIT.pack(
                        type=d.DescriptorType.WAIT, interrupt=rng.randrange(2), fence=rng.randrange(2),
                        page_drain=rng.randrange(2), data=rng.getrandbits(32), address=rng.getrandbits(40),
                    )  # fmt: skip
                values.append(value)
                if rng.random() < 0.2:
                    values.append(no_operation(False)[0])
            yield from host.submit(*values)

    def mistakes(self) -> Agent[None]:
        """Malformed descriptors and bad tails; each is found by its queue error, repaired, and the queue
        resumed."""
        rng, host = self.rng, self.host
        while not self.bench.stopping:
            yield from self._breath(25)
            yield from host.sync()
            yield from host.lock()
            if rng.random() < 0.25:
                yield from self._idle()  # the tail is judged by an engine that is idle (I1)
                bad = host.tail + 16 if host.wide else host.queue_bytes + 16 * rng.randrange(8)
                if bad < 1 << 19:
                    yield WriteRegister(_OFFSET["IQT"], bad, 8)
                    yield from self._queue_error()
                    yield WriteRegister(_OFFSET["IQT"], host.tail, 8)
                    yield WriteRegister(_OFFSET["FSTS"], FSTS.pack(iqe=1))
                host.unlock()
                continue
            head = host.tail
            yield from host.put(self._malformed(), *([no_operation(False)[0]] if rng.randrange(2) else []))
            early = rng.random() < 0.5  # others put descriptors behind the bad one
            if early:
                host.unlock()
            yield from self._queue_error()
            found = yield from host.read_head()
            if found != head:
                raise AssertionError(
                    f"IQH must stay at the bad descriptor {head:#x}, not {found:#x} (rule I4)"
                )
            for position, word in enumerate(no_operation(host.wide)):
                yield Store(host.queue_base + head + 8 * position, word)
            if not early:
                host.unlock()
            yield WriteRegister(_OFFSET["FSTS"], FSTS.pack(iqe=1))

    def _queue_error(self) -> Agent[None]:
        while True:
            status: int = yield ReadRegister(_OFFSET["FSTS"])
            if FSTS.get(status, "iqe"):
                return
            yield Delay(self.rng.randrange(1, 20))

    def _malformed(self) -> int:
        rng, host = self.rng, self.host
        selective = d.Granularity.SELECTIVE
        iotlb, context = d.DescriptorType.IOTLB, d.DescriptorType.CONTEXT
        choices = [
            rng.choice((0, 3, 8, 9, 10, 15)),
            d.IOTLB_INV.pack(type=iotlb, g=0, did=1),
            d.CONTEXT_INV.pack(type=context, g=0),
            d.IOTLB_INV.pack(type=iotlb, g=1) | 1 << rng.choice((8, 12, 32, 63, 71, 75)),
            d.CONTEXT_INV.pack(type=context, g=1) | 1 << rng.choice((6, 15, 50, 64, 127)),
            d.WAIT.pack(type=d.DescriptorType.WAIT, status_write=1, address=1)
            | 1 << rng.choice((8, 31, 64, 65)),
            d.INTERRUPT_INV.pack(type=d.DescriptorType.INTERRUPT) | 1 << rng.choice((5, 26, 48, 64)),
            d.IOTLB_INV.pack(type=iotlb, g=selective, did=1, am=3, address=4),
            d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=2),
            d.PASID_IOTLB_INV.pack(type=d.DescriptorType.PASID_IOTLB, g=rng.randrange(2)),
        ]
        if host.params.max_address_mask < 52:
            choices.append(
                d.IOTLB_INV.pack(type=iotlb, g=selective, did=1, am=host.params.max_address_mask + 1)
            )
        if host.wide:
            choices.append(d.IOTLB_INV.pack(type=iotlb, g=1) | 1 << rng.randrange(128, 256))
        return rng.choice(choices)

    # --- faults, events, registers -------------------------------------------------------------------------

    def faults(self) -> Agent[None]:
        """Read fault records when some are there and clear them, often too late: the log overflows."""
        rng, count = self.rng, self.host.params.fault_records
        position = 0  # records are filled in turn, and cleared in turn
        while not self.bench.stopping:
            yield from self._breath(8)
            status: int = yield ReadRegister(_OFFSET["FSTS"])
            if FSTS.get(status, "ppf"):
                for _ in range(rng.randrange(1, count + 1)):
                    offset = FAULT_RECORD_OFFSET + 16 * position
                    high: int = yield ReadRegister(offset + 8, 8)
                    if not high >> 63:
                        break
                    yield from self._low_half(offset)
                    yield WriteRegister(offset + 12, _FAULT)
                    position = (position + 1) % count
            if FSTS.get(status, "pfo") and rng.random() < 0.8:
                yield WriteRegister(_OFFSET["FSTS"], FSTS.pack(pfo=1))

    def _low_half(self, offset: int) -> Agent[None]:
        """The address of a fault record: in one access, in two, now and then not at all."""
        kind = self.rng.random()
        if kind < 0.7:
            yield ReadRegister(offset, 8)
        elif kind < 0.9:
            yield ReadRegister(offset, 4)
            yield ReadRegister(offset + 4, 4)

    def events(self) -> Agent[None]:
        """Set up the event messages, mask and unmask them, clear the completion status."""
        rng = self.rng
        while not self.bench.stopping:
            yield from self._breath(3)
            kind = rng.choice(("FE", "IE"))
            what = rng.randrange(6)
            if what == 0:
                yield WriteRegister(_OFFSET[kind + "DATA"], rng.getrandbits(32))
            elif what == 1:
                yield WriteRegister(_OFFSET[kind + "ADDR"], rng.getrandbits(32))
            elif what == 2:
                yield WriteRegister(_OFFSET[kind + "UADDR"], rng.getrandbits(12))
            elif what < 5:
                name = "FECTL" if kind == "FE" else "IECTL"
                yield WriteRegister(_OFFSET[name], EVENT_CONTROL.pack(im=rng.randrange(2)))
            else:
                yield WriteRegister(_OFFSET["ICS"], 1)

    def reader(self) -> Agent[None]:
        """Read registers, existing ones and holes."""
        rng = self.rng
        names = list(REGISTERS)
        while not self.bench.stopping:
            yield from self._breath()
            if rng.random() < 0.7:
                register = REGISTERS[rng.choice(names)]
                yield ReadRegister(register.offset, register.size)
            else:
                yield ReadRegister(rng.randrange(0x300 // 8) * 8, 8)

    def switches(self) -> Agent[None]:
        """Turn translation, the queue and the root pointer off and on; afterwards everything is
        invalidated."""
        rng, host = self.rng, self.host
        while not self.bench.stopping:
            yield from self._breath(40)
            yield from host.sync()
            yield from host.lock()
            kind = rng.randrange(4)
            if kind == 0:
                yield WriteRegister(_OFFSET["GCMD"], GCMD.pack(qie=1))
                yield from self._breath()
                yield WriteRegister(_OFFSET["GCMD"], GCMD.pack(te=1, qie=1))
            elif kind == 1:
                yield from self._idle()
                yield WriteRegister(_OFFSET["GCMD"], GCMD.pack(te=1))
                yield from self._breath()
                yield WriteRegister(_OFFSET["IQT"], 0, 8)
                host.tail = 0
                yield WriteRegister(_OFFSET["GCMD"], GCMD.pack(te=1, qie=1))
            elif kind == 2 and host.params.scalable:
                yield from self._root(TTM_ABORT << 10)
                yield from self._breath()
                yield from self._root(host.rtaddr)
            else:
                yield from self._root(host.rtaddr)
            host.unlock()
            flush = [d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=d.Granularity.GLOBAL)]
            if host.scalable:
                flush.append(d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=d.PasidGranularity.GLOBAL))
            yield from host.sync(*flush, host.global_descriptor())

    def _idle(self) -> Agent[None]:
        """Holding the lock, go on when the engine has done everything and is IDLE."""
        wait, address, data = self.host.wait_descriptor()
        yield from self.host.put(wait)
        while True:
            word: int = yield Load(address)
            if word & 0xFFFF_FFFF == data:
                break
            yield Delay(3)
        yield Delay(2)

    def _root(self, value: int) -> Agent[None]:
        yield WriteRegister(_OFFSET["RTADDR"], value, 8)
        yield WriteRegister(_OFFSET["GCMD"], GCMD.pack(srtp=1, te=1, qie=1))
