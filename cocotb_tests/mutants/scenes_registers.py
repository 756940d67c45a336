"""Scenarios about what software sees: queue errors, waits, events, the fault log."""

from cocotb_tests.harness.host import Device, no_operation
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.scheduler import Answer, BenchAgent, Translate, Translation
from cocotb_tests.mutants.stage import FRAMES, OFFSET, Stage, page_inv
from pymodel.effects import Delay, Load, ReadRegister, Store, WaitFor, WriteRegister
from pymodel.spec import descriptors as d
from pymodel.spec.faults import FAULT_RECORD, Reason
from pymodel.spec.registers import EVENT_CONTROL, FAULT_RECORD_OFFSET, FSTS, QUEUE_ERROR

__all__ = ["events", "faults", "malformed", "waits"]

_PAGE = 4096
_MAIL = 0x1F00_0000  # event messages go here
_IOTLB, _WAIT = d.DescriptorType.IOTLB, d.DescriptorType.WAIT


def malformed(context: JobContext, wide: bool = False) -> LockStep:
    """Malformed descriptors and tails: the queue stops before them, says why, and goes on once they are repaired."""
    stage = Stage(context, latency=3, wide=wide)
    domain = stage.domain(0x71)
    device = stage.device(0x0300, domain)
    stage.map(domain, 0x1000, FRAMES, 4)
    page = page_inv(domain.did, 0x1000)
    cases: list[tuple[int, str]] = [
        (page_inv(domain.did, 0, am=context.params.max_address_mask + 1), "reserved"),
        (d.IOTLB_INV.pack(type=_IOTLB, g=3, am=3, address=4), "reserved"),
        (d.IOTLB_INV.pack(type=_IOTLB, g=0), "reserved"),
        (d.CONTEXT_INV.pack(type=d.DescriptorType.CONTEXT, g=0), "reserved"),
        (page | 1 << 8, "reserved"),
        (page | 1 << 75, "reserved"),
        (d.WAIT.pack(type=_WAIT, interrupt=1) | 1 << 8, "reserved"),
        (d.PASID_CACHE_INV.pack(type=d.DescriptorType.PASID_CACHE, g=2), "reserved"),
        (d.PASID_IOTLB_INV.pack(type=d.DescriptorType.PASID_IOTLB, g=1), "reserved"),
        (d.DescriptorType.DEVICE_TLB.value, "bad_type"),
        (0, "bad_type"),
    ]
    if wide:
        cases += [(page | 1 << 130, "reserved"), (page | 1 << 255, "reserved")]

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        yield from stage.access(device, 0x1000)
        for bad, error in cases:
            head = host.tail
            wait, address, data = host.wait_descriptor()
            yield from host.put(bad, wait)
            yield from stage.poll("FSTS", FSTS.mask("iqe"), FSTS.mask("iqe"))
            yield Delay(30)
            code = yield ReadRegister(OFFSET["IQER"])
            stage.expect(code == QUEUE_ERROR[error], f"IQER must be {QUEUE_ERROR[error]} for {bad:#x}, not {code}")
            found = yield from host.read_head()
            stage.expect(found == head, f"IQH must stay at {head:#x}, not {found:#x}")
            status: int = yield Load(address)
            stage.expect(status & 0xFFFF_FFFF != data, "a wait behind a malformed descriptor completed")
            for position, word in enumerate(no_operation(wide)):
                yield Store(host.queue_base + head + 8 * position, word)
            yield Delay(40)
            status = yield Load(address)
            stage.expect(status & 0xFFFF_FFFF != data, "the queue went on although IQE is set")
            yield WriteRegister(OFFSET["FSTS"], FSTS.pack(iqe=1))
            yield WaitFor(address, 0xFFFF_FFFF, data)
            code = yield ReadRegister(OFFSET["IQER"])
            stage.expect(code == 0, f"IQER must be cleared with IQE, not {code}")
        yield WriteRegister(OFFSET["IQT"], host.queue_bytes, 8)
        yield from stage.poll("FSTS", FSTS.mask("iqe"), FSTS.mask("iqe"))
        code = yield ReadRegister(OFFSET["IQER"])
        stage.expect(code == QUEUE_ERROR["bad_tail"], f"IQER must be {QUEUE_ERROR['bad_tail']}, not {code}")
        yield WriteRegister(OFFSET["IQT"], host.tail, 8)
        yield WriteRegister(OFFSET["FSTS"], FSTS.pack(iqe=1))
        yield from host.sync(page)

    stage.run("software", software())
    return stage.bench


def waits(context: JobContext, stall: int = 0) -> LockStep:
    """Waits of every kind, several in a line; the queue wraps; a wait behind many invalidations."""
    stage = Stage(context, latency=1, write_latency=6, stall=stall)
    domain = stage.domain(0x72)
    device = stage.device(0x0300, domain)
    stage.map(domain, 0x1000, FRAMES, 16)

    def software() -> BenchAgent[None]:
        host = stage.host
        yield from host.start()
        yield WriteRegister(OFFSET["IEADDR"], _MAIL)
        yield WriteRegister(OFFSET["IECTL"], EVENT_CONTROL.pack(im=0))
        yield from stage.access(device, 0x1000)
        for fence in (0, 1):
            for count in (0, 1, 2, 3, 5):
                yield Store(stage.entry(domain, 0x1000), FRAMES + (fence * 8 + count + 2 << 20) | 3)
                filling = [page_inv(domain.did, 0x9000)] * count
                yield from host.sync(*filling, page_inv(domain.did, 0x1000), fence=fence)
                yield from stage.access(device, 0x1000)
        for _ in range(6):  # the message of the first one and the status of the next ones compete for the port
            words = [host.wait_descriptor(fence=number & 1, interrupt=1) for number in range(6)]
            yield from host.put(*(word for word, _, _ in words))
            for _, address, data in words:
                yield WaitFor(address, 0xFFFF_FFFF, data)
            yield WriteRegister(OFFSET["ICS"], 1)
        only = d.WAIT.pack(type=_WAIT, interrupt=1)
        yield from host.put(only)
        yield from stage.poll("ICS", 1, 1)
        left = host.queue_bytes - host.tail
        for _ in range(left // 16 - 1):
            yield from host.put(no_operation(False)[0], ring=False)
        yield from host.put(page_inv(domain.did, 0x1000))
        yield from host.sync(page_inv(domain.did, 0x2000))
        found = yield from host.read_head()
        stage.expect(found == host.tail, f"IQH must reach the tail {host.tail:#x}, not {found:#x}")

    stage.run("software", software())
    return stage.bench


def events(context: JobContext) -> LockStep:
    """Event messages, masked and not; status bits that software clears while hardware sets them."""
    stage = Stage(context, latency=2)
    domain = stage.domain(0x73)
    device = stage.device(0x0300, domain)
    stage.map(domain, 0x1000, FRAMES, 4)
    wait = d.WAIT.pack(type=_WAIT, interrupt=1)

    def mail(kind: str, number: int) -> BenchAgent[int]:
        """Set up a message; gives where it goes."""
        address = _MAIL + 16 * number
        yield WriteRegister(OFFSET[kind + "DATA"], 0x4000 + number)
        yield WriteRegister(OFFSET[kind + "ADDR"], address)
        return address

    def came(address: int, number: int) -> BenchAgent[None]:
        yield Delay(20)
        word: int = yield Load(address)
        stage.expect(word == 0x4000 + number, f"message {number:#x} must have been sent once, found {word:#x}")

    def quiet(address: int) -> BenchAgent[None]:
        yield Delay(20)
        word: int = yield Load(address)
        stage.expect(word == 0, f"message {word:#x} was sent while it was masked")

    def raise_completion() -> BenchAgent[None]:
        yield from stage.host.put(wait)
        yield from stage.poll("ICS", 1, 1)

    def raise_fault() -> BenchAgent[None]:
        yield from stage.access(device, 0x9000)
        yield from stage.poll("FSTS", FSTS.mask("ppf"), FSTS.mask("ppf"))

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        yield from stage.access(device, 0x1000)
        for number, (kind, cause) in enumerate((("IE", raise_completion), ("FE", raise_fault)) * 2):
            address = yield from mail(kind, number)
            masked = number < 2
            yield WriteRegister(OFFSET[kind + "CTL"], EVENT_CONTROL.pack(im=masked))
            yield from cause()
            control = EVENT_CONTROL.mask("ip")
            if masked:
                yield from quiet(address)
                control = yield ReadRegister(OFFSET[kind + "CTL"])
                yield WriteRegister(OFFSET[kind + "CTL"], 0)
            yield from came(address, number)
            stage.expect(bool(EVENT_CONTROL.get(control, "ip")), f"{kind}CTL.IP must be 1 while masked")
            yield from stage.read_log()
            yield WriteRegister(OFFSET["ICS"], 1)
        for offset in range(16):  # ICS is cleared at every cycle around the one in which it is set
            yield from stage.host.put(wait)
            yield Delay(offset)
            yield WriteRegister(OFFSET["ICS"], 1)
            yield Delay(24)
            yield WriteRegister(OFFSET["ICS"], 1)
        for offset in range(10):  # the same for IQE
            head = stage.host.tail
            yield from stage.host.put(0)
            yield Delay(offset)
            yield WriteRegister(OFFSET["FSTS"], FSTS.pack(iqe=1))
            yield from stage.poll("FSTS", FSTS.mask("iqe"), FSTS.mask("iqe"))
            for position, word in enumerate(no_operation(False)):
                yield Store(stage.host.queue_base + head + 8 * position, word)
            yield WriteRegister(OFFSET["FSTS"], FSTS.pack(iqe=1))

    stage.run("software", software())
    return stage.bench


def faults(context: JobContext) -> LockStep:
    """The fault log: order, contents, overflow, FRI, faults that are not recorded, two faults at once."""
    stage = Stage(context, latency=2)
    domain, quiet_domain = stage.domain(0x74), stage.domain(0x75)
    device = stage.device(0x0300, domain)
    other = stage.device(0x0342, domain)
    quiet = stage.device(0x0301, quiet_domain, fpd=1)
    stage.map(domain, 0x1000, FRAMES, 4)
    stage.map(domain, 0x5000, FRAMES + 0x5000, w=False)
    count = context.params.fault_records
    position = [0]

    def expect_log(want: list[tuple[Device, int, bool, Reason]], overflow: bool = False) -> BenchAgent[None]:
        """Exactly these records, in order, from the next free one on."""
        found, status = yield from stage.read_log()
        have = [
            (FAULT_RECORD.get(record, "sid"), FAULT_RECORD.get(record, "address"), FAULT_RECORD.get(record, "t"),
             FAULT_RECORD.get(record, "reason"))
            for record in found
        ]  # fmt: skip
        wanted = [(one.sid, iova >> 12, int(not write), int(reason)) for one, iova, write, reason in want]
        stage.expect(have == wanted, f"the fault log must hold {wanted}, not {have}")
        stage.expect(bool(FSTS.get(status, "pfo")) == overflow, f"PFO must be {overflow}")
        if want:
            index = FSTS.get(status, "fri")
            stage.expect(index == position[0], f"FRI must be {position[0]}, not {index}")
        position[0] = (position[0] + len(want)) % count

    def status(pfo: int, ppf: int, when: str) -> BenchAgent[None]:
        yield Delay(6)
        word: int = yield ReadRegister(OFFSET["FSTS"])
        found = (FSTS.get(word, "pfo"), FSTS.get(word, "ppf"))
        stage.expect(found == (pfo, ppf), f"PFO, PPF must be {pfo}, {ppf} {when}, not {found}")

    def overflow() -> BenchAgent[None]:
        """A full log is no overflow; one that overflowed keeps its records and takes nothing up to the clear of PFO."""
        for number in range(count):
            yield from stage.access(device, 0x9000 + number * _PAGE)
        yield from status(0, 1, "while the log is just full")
        oldest = FAULT_RECORD_OFFSET + 16 * position[0]
        before: int = yield ReadRegister(oldest, 8)
        yield from stage.access(device, 0xB000)
        after: int = yield ReadRegister(oldest, 8)
        stage.expect(after == before, f"the oldest record must stay {before:#x}, not {after:#x}")
        yield from status(1, 1, "after one fault more")
        for index in range(count):
            yield WriteRegister(FAULT_RECORD_OFFSET + 16 * index + 12, 1 << 31)
        yield from stage.access(device, 0xC000)
        yield from status(1, 0, "when all records are cleared")
        yield WriteRegister(OFFSET["FSTS"], FSTS.pack(pfo=1))
        yield from status(0, 0, "when all is cleared")

    def software() -> BenchAgent[None]:
        yield from stage.host.start()
        for one in (device, other):
            yield from stage.access(one, 0x1000)
        read, write = Reason.READ_DENIED, Reason.WRITE_DENIED
        for number in range(3):
            yield from stage.access(device, 0x9000 + number * _PAGE, bool(number & 1))
            yield from expect_log([(device, 0x9000 + number * _PAGE, bool(number & 1), write if number & 1 else read)])
        for number in range(count + 2):
            yield from stage.access(device, 0x9000 + number * _PAGE)
        yield from expect_log([(device, 0x9000 + number * _PAGE, False, read) for number in range(count)], True)
        yield from overflow()
        yield from stage.access(device, 0xD000)
        yield from expect_log([(device, 0xD000, False, read)])
        yield from stage.access(quiet, 0x1000)
        yield from stage.access(quiet, 1 << 50)
        yield from stage.access(device, 0xFEE0_1000)
        yield from expect_log([])
        yield from stage.access(device, 0x5000)
        yield from stage.access(device, 0x5008, True)  # a hit without the right
        yield from expect_log([(device, 0x5000, True, write)])
        beyond = 1 << 50
        for offset in range(14):  # a fault of a walk and one of a lookup, at every distance
            translation: Translation = yield Translate(device.sid, 0x9000)
            yield Delay(offset)
            late: Translation = yield Translate(other.sid, beyond)
            yield Answer(late)
            yield Answer(translation)
            found, _ = yield from stage.read_log()
            reasons = sorted(FAULT_RECORD.get(record, "reason") for record in found)
            want = sorted([int(read), int(Reason.ADDRESS_BEYOND_WIDTH)])
            stage.expect(reasons == want, f"two faults must be recorded as {want}, not {reasons}")

    stage.run("software", software())
    return stage.bench
