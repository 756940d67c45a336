"""A small bench for the cycle model: memory with a fixed latency, registers, tables, the answers."""

from dataclasses import dataclass, field, replace

from pymodel.cycle import CycleModel, Inputs
from pymodel.spec.context import (
    LEGACY_CONTEXT,
    LEGACY_ROOT,
    PASID_DIRECTORY,
    PASID_ENTRY,
    RTADDR,
    SCALABLE_CONTEXT,
    SCALABLE_ROOT_HALF,
)
from pymodel.spec.descriptors import IOTLB_INV, WAIT
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import GCMD, REGISTERS
from pymodel.spec.second_stage import index

ROOT_TABLE, CONTEXT_TABLE, DIRECTORY, PASID_TABLE, TABLE, QUEUE = (
    0x10_0000, 0x11_0000, 0x12_0000, 0x13_0000, 0x20_0000, 0x80_0000,
)  # fmt: skip
RW = 3
PS = 1 << 7
PORTS = ("hits", "completions", "reads", "writes", "register_responses")


@dataclass
class Answer:
    """One answer on `hits` or `completions`."""

    cycle: int
    port: str
    tag: int
    reason: int
    address: int
    level: int
    r: int
    w: int
    snoop: int


@dataclass
class Bench:
    """The model with memory; `tick` is one cycle. Outputs have to be stable until they are taken (P1)."""

    params: IommuParams = field(default_factory=IommuParams)
    latency: int = 3
    ack_latency: int = 4

    def __post_init__(self) -> None:
        self.model = CycleModel(self.params)
        self.memory: dict[int, int] = {}
        self.bad_lines: set[int] = set()
        self.cycle = 0
        self.ready = Inputs(None, True, True, True, True, True)
        self.returns: list[tuple[int, tuple[int, int, int]]] = []
        self.acks: list[tuple[int, int]] = []
        self.answers: list[Answer] = []
        self.reads: list[tuple[int, int, int]] = []
        self.writes: list[tuple[int, ...]] = []
        self.log: list[dict[str, int]] = []
        self.tables = TABLE + 0x1000
        self.hold_returns = False
        self._held: dict[str, object] = {}

    # --- memory ---

    def store(self, address: int, value: int, size: int = 8) -> None:
        """Write `size` bytes, all in one line."""
        line, shift = address >> 6, 8 * (address & 63)
        mask = ((1 << 8 * size) - 1) << shift
        self.memory[line] = self.memory.get(line, 0) & ~mask | value << shift

    def load(self, address: int) -> int:
        """Read 8 bytes."""
        return self.memory.get(address >> 6, 0) >> 8 * (address & 63) & (1 << 64) - 1

    # --- cycles ---

    def tick(self, request=None, register=None) -> dict[str, int]:
        """One cycle; returns its observation."""
        model, ready = self.model, self.ready
        seen = model.fields()
        self.log.append(seen)
        self._check_stable()
        inputs = replace(ready, request=request, register_request=register)
        if self.returns and self.returns[0][0] <= self.cycle and not self.hold_returns:
            inputs.read_data = self.returns.pop(0)[1]
        if self.acks and self.acks[0][0] <= self.cycle:
            inputs.write_ack = self.acks.pop(0)[1]
        self._take(inputs)
        self.clock(inputs)
        self.cycle += 1
        return seen

    def clock(self, inputs: Inputs) -> None:
        """Let the cycle end."""
        self.model.step(inputs)

    def _take(self, inputs: Inputs) -> None:
        model = self.model
        for port in ("hits", "completions"):
            payload = getattr(model, port)
            if payload is not None and getattr(inputs, f"{port}_ready"):
                self.answers.append(Answer(self.cycle, port, *payload))
        if model.reads is not None and inputs.reads_ready:
            ident, line = model.reads
            self.reads.append((self.cycle, ident, line))
            error = int(line in self.bad_lines)
            self.returns.append((self.cycle + self.latency, (ident, error, self.memory.get(line, 0))))
        if model.writes is not None and inputs.writes_ready:
            self.writes.append((self.cycle, *model.writes))
            self.acks.append((self.cycle + self.ack_latency, model.writes[0]))

    def _check_stable(self) -> None:
        for port in PORTS:
            now = getattr(self.model, port)
            before = self._held.get(port)
            assert before is None or before == now, (
                f"{port} changed from {before} to {now} before it was taken"
            )
            self._held[port] = None if getattr(self.ready, f"{port}_ready") else now

    def idle(self, cycles: int) -> None:
        """Let cycles pass."""
        for _ in range(cycles):
            self.tick()

    def submit(self, tag, iova, *, write=0, sid=0, pasid=None) -> int:
        """Present a request until it is accepted; returns the cycle of acceptance."""
        request = (tag, sid, int(pasid is not None), pasid or 0, iova, write)
        for _ in range(1000):
            accepted = self.model.requests_ready
            self.tick(request)
            if accepted:
                return self.cycle - 1
        raise AssertionError("the request was not accepted")

    def ask(self, iova, *, write=0, sid=0, pasid=None) -> Answer:
        """One request and its answer."""
        count = len(self.answers)
        self.submit(0x5A, iova, write=write, sid=sid, pasid=pasid)
        for _ in range(1000):
            if len(self.answers) > count:
                return self.answers[-1]
            self.tick()
        raise AssertionError("no answer")

    # --- registers ---

    def access(self, write: int, address: int, data: int, strobe: int) -> int:
        """One register access; returns the response."""
        while not self.model.register_requests_ready:
            self.tick()
        self.tick(register=(write, address, data, strobe))
        while True:
            response = self.model.register_responses
            taken = self.ready.register_responses_ready
            self.tick()
            if taken:
                assert response is not None
                return response

    def write_register(self, name: str, value: int) -> None:
        """Write one register by name."""
        register = REGISTERS[name]
        lane = register.offset & 7
        strobe = ((1 << register.size) - 1) << lane
        self.access(1, register.offset & ~7, value << 8 * lane, strobe)

    def read_register(self, name: str) -> int:
        """Read one register by name."""
        register = REGISTERS[name]
        value = self.access(0, register.offset & ~7, 0, 0) >> 8 * (register.offset & 7)
        return value & (1 << 8 * register.size) - 1

    def enable(self, mode: int = 0, queue: bool = False) -> None:
        """Set the root pointer and turn translation on (R3, R4)."""
        self.write_register("RTADDR", ROOT_TABLE | RTADDR.pack(ttm=mode))
        if queue:
            self.write_register("IQA", QUEUE)
            self.write_register("IQT", 0)
        self.write_register("GCMD", GCMD.pack(te=1, srtp=1, qie=int(queue)))

    # --- tables ---

    def legacy(self, sid: int = 0, depth: int = 4, did: int = 7, table: int = TABLE, **more: int) -> None:
        """Root and context entry of legacy mode."""
        self.store(ROOT_TABLE + 16 * (sid >> 8), LEGACY_ROOT.pack(p=1, context_table=CONTEXT_TABLE >> 12), 16)
        entry = LEGACY_CONTEXT.pack(**({"p": 1, "aw": depth - 2, "did": did, "table": table >> 12} | more))
        self.store(CONTEXT_TABLE + 16 * (sid & 255), entry, 16)

    def scalable(self, sid=0, pasid=0, depth=4, did=7, context=None, directory=None, **more: int) -> None:
        """The four structures of scalable mode for one device and PASID."""
        half = SCALABLE_ROOT_HALF.pack(p=1, context_table=CONTEXT_TABLE >> 12)
        self.store(ROOT_TABLE + 16 * (sid >> 8) + 8 * (sid >> 7 & 1), half)
        entry = {"p": 1, "pasid_directory": DIRECTORY >> 12, "paside": 1, "pdts": 7} | (context or {})
        self.store(CONTEXT_TABLE + 32 * (sid & 127), SCALABLE_CONTEXT.pack(**entry), 32)
        entry = {"p": 1, "table": PASID_TABLE >> 12} | (directory or {})
        self.store(DIRECTORY + 8 * (pasid >> 6), PASID_DIRECTORY.pack(**entry))
        entry = {"p": 1, "aw": depth - 2, "pgtt": 2, "table": TABLE >> 12, "did": did} | more
        self.store(PASID_TABLE + 64 * (pasid & 63), PASID_ENTRY.pack(**entry), 64)

    def map(
        self, iova: int, entry: int, level: int = 0, depth: int = 4, table: int = TABLE, rw: int = RW
    ) -> None:
        """Write `entry` for `iova` at `level`, with new tables above it where none are."""
        for above in range(depth - 1, level, -1):
            slot = table + 8 * index(iova, above)
            if not self.load(slot) & RW:
                self.store(slot, self.tables | rw)
                self.tables += 0x1000
            table = self.load(slot) & 0xF_FFFF_FFFF_F000
        self.store(table + 8 * index(iova, level), entry)

    def entry_address(self, iova: int, level: int, depth: int = 4, table: int = TABLE) -> int:
        """Address of the entry of `iova` at `level`."""
        for above in range(depth - 1, level, -1):
            table = self.load(table + 8 * index(iova, above)) & 0xF_FFFF_FFFF_F000
        return table + 8 * index(iova, level)

    # --- the queue ---

    def queue(self, *words: int, start: int | None = None, size: int = 16) -> None:
        """Append descriptors behind the tail and ring the doorbell."""
        tail = self.read_register("IQT") if start is None else start
        for word in words:
            self.store(QUEUE + tail, word, size)
            tail = (tail + size) % 4096
        self.write_register("IQT", tail)

    def drain(self, limit: int = 300) -> None:
        """Wait until the queue is empty and idle."""
        for _ in range(limit):
            seen = self.tick()
            if seen["queue_state"] == 0 and seen["queue_head"] << 4 == self.model._registers.tail:
                return
        raise AssertionError("the queue does not get empty")

    def invalidate(self, *words: int) -> None:
        """Run descriptors to their end."""
        self.queue(*words)
        self.drain()


def page_inv(iova: int, am: int = 0, ih: int = 0, did: int = 7) -> int:
    """Page-selective IOTLB invalidation."""
    return IOTLB_INV.pack(type=2, g=3, did=did, am=am, ih=ih, address=iova >> 12)


def wait(data: int = 0xCAFE, address: int = 0x9000, **more: int) -> int:
    """Wait descriptor with a status write."""
    return WAIT.pack(**({"type": 5, "status_write": 1, "data": data, "address": address >> 2} | more))


def ready_bench(
    params: IommuParams | None = None, latency: int = 3, depth: int = 4, queue: bool = False
) -> Bench:
    """A bench in legacy mode with one device, translation on."""
    bench = Bench(params or IommuParams(), latency)
    bench.legacy(depth=depth)
    bench.enable(queue=queue)
    return bench
