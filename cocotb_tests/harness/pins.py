"""Packing of one cycle's inputs into the four wide input ports of the bench top, and names for their bits."""

from typing import Any

from pymodel.cycle.inputs import Inputs
from pymodel.spec.observation import payloads
from pymodel.spec.params import IommuParams

__all__ = ["CONTROL", "CONTROL_BITS", "RESET_BIT", "InputPins", "WIDE_PORTS", "payload_width"]

CONTROL = (
    "requests_valid", "hits_ready", "completions_ready", "reads_ready", "read_data_valid", "writes_ready",
    "write_acks_valid", "register_requests_valid", "register_responses_ready",
)  # fmt: skip
"""One-bit inputs in the order of the `control` port, lowest first; above them stand the id of the write ack and
the reset."""

RESET_BIT = len(CONTROL) + 2
CONTROL_BITS = RESET_BIT + 1

WIDE_PORTS = {"request": "requests", "register_request": "register_requests", "read_data": "read_data"}
"""Wide input port of the bench top -> native port whose payload it carries."""


def payload_width(params: IommuParams, port: str) -> int:
    """Bits of a native port's payload."""
    return sum(width for _, width in payloads(params)[port])


class InputPins:
    """Turns the inputs of a cycle into port values; a payload that is not valid keeps its last value.

    Members `control`, `request`, `register_request`, `read_data` hold the port values after `load`.
    """

    __slots__ = ("_register_shifts", "_request_shifts", "_seen", "control", "id_bits", "read_data",
                 "register_request", "request")  # fmt: skip

    def __init__(self, params: IommuParams) -> None:
        ports = payloads(params)
        self._request_shifts = _shifts(ports["requests"])
        self._register_shifts = _shifts(ports["register_requests"])
        self.id_bits = ports["read_data"][0][1]
        self.control = self.request = self.register_request = self.read_data = 0
        self._seen: list[Any] = [None, None]

    def load(self, inputs: Inputs) -> None:
        """Take the inputs of one cycle."""
        if inputs.reset:
            self.control = 1 << RESET_BIT
            return
        control = 2 if inputs.hits_ready else 0
        if inputs.completions_ready:
            control |= 4
        if inputs.reads_ready:
            control |= 8
        if inputs.writes_ready:
            control |= 32
        if inputs.register_responses_ready:
            control |= 256
        request = inputs.request
        if request is not None:
            control |= 1
            if request is not self._seen[0]:
                self._seen[0] = request
                tag, sid, valid, pasid, iova, write = request
                _, at_sid, at_valid, at_pasid, at_iova, at_write = self._request_shifts
                self.request = (
                    tag | sid << at_sid | valid << at_valid | pasid << at_pasid | iova << at_iova | write << at_write
                )
        data = inputs.read_data
        if data is not None:
            control |= 16
            self.read_data = data[0] | (data[1] | data[2] << 1) << self.id_bits
        ack = inputs.write_ack
        if ack is not None:
            control |= 64 | ack << 9
        access = inputs.register_request
        if access is not None:
            control |= 128
            if access is not self._seen[1]:
                self._seen[1] = access
                write, address, word, strobe = access
                _, at_address, at_word, at_strobe = self._register_shifts
                self.register_request = write | address << at_address | word << at_word | strobe << at_strobe
        self.control = control


def _shifts(fields: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
    """Lowest bit of each field of a payload."""
    shifts, low = [], 0
    for _, width in fields:
        shifts.append(low)
        low += width
    return tuple(shifts)
