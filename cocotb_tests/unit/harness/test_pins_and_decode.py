"""Inputs are packed, and the observation is taken apart, as the port declarations say."""

import random

import pytest

from cocotb_tests.harness.decode import EventDecoder, PortDecoder, difference, field_places
from cocotb_tests.harness.patterns import ALWAYS, Consumers, ReadyPattern
from cocotb_tests.harness.pins import CONTROL, InputPins, payload_width
from pymodel.cycle.inputs import Inputs
from pymodel.spec.observation import observation, payloads
from pymodel.spec.params import PRESETS, IommuParams


@pytest.mark.parametrize("preset", PRESETS)
def test_payloads_are_packed_in_declared_order(preset: str) -> None:
    params, rng = PRESETS[preset], random.Random(preset)
    pins = InputPins(params)
    ports = payloads(params)
    for port, attribute in (("requests", "request"), ("register_requests", "register_request"),
                            ("read_data", "read_data")):  # fmt: skip
        values = tuple(rng.getrandbits(width) for _, width in ports[port])
        inputs = Inputs()
        setattr(inputs, attribute, values)
        pins.load(inputs)
        word = getattr(pins, attribute)
        for (name, width), value in zip(ports[port], values, strict=True):
            assert word & (1 << width) - 1 == value, name
            word >>= width
        assert word == 0
        assert payload_width(params, port) == sum(width for _, width in ports[port])


def test_control_has_one_bit_for_each_handshake() -> None:
    pins = InputPins(PRESETS["small"])
    for bit, name in enumerate(CONTROL):
        inputs = Inputs()
        if name.endswith("_ready"):
            setattr(inputs, name, True)
        elif name == "requests_valid":
            inputs.request = (0, 0, 0, 0, 0, 0)
        elif name == "register_requests_valid":
            inputs.register_request = (0, 0, 0, 0)
        elif name == "read_data_valid":
            inputs.read_data = (0, 0, 0)
        else:
            inputs.write_ack = 0
        pins.load(inputs)
        assert pins.control == 1 << bit, name
    inputs = Inputs(write_ack=2)
    pins.load(inputs)
    assert pins.control >> len(CONTROL) == 2


def pack(params: IommuParams, values: dict[str, int]) -> int:
    places = field_places(params)
    return sum(value << places[name][0] for name, value in values.items())


def test_ports_are_decoded() -> None:
    params = PRESETS["default"]
    decoder = PortDecoder(params)
    assert (decoder.hits, decoder.reads, decoder.register_responses) == (None, None, None)
    decoder.load(
        pack(
            params,
            {
                "requests_ready": 1,
                "hits_valid": 1,
                "hits_tag": 9,
                "hits_reason": 5,
                "reads_valid": 1,
                "reads_id": 8,
                "reads_line": 77,
                "register_responses_valid": 1,
                "register_responses_data": 3,
            },
        )
    )
    assert decoder.requests_ready == 1
    assert decoder.register_requests_ready == 0
    assert decoder.hits == (9, 5, 0, 0, 0, 0, 0)
    assert decoder.reads == (8, 77)
    assert decoder.register_responses == 3
    assert decoder.completions is None


def test_events_are_decoded() -> None:
    params = PRESETS["default"]
    decoder = EventDecoder(params)
    word = pack(
        params,
        {"lookup": 6, "lookup_slot": 3, "lookup_level": 2, "apply": 2, "killed": 0x81, "queue_state": 5},
    )
    events = word >> decoder.events_low
    assert decoder.lookup(events) == (6, 0, 0, 3, 2)
    assert events & decoder.mask("apply")
    assert not events & decoder.mask("arrival")
    assert decoder.group(events, decoder.places("apply", "killed", "arrival")) == (2, 0x81, 0)
    assert word >> decoder.queue_low & decoder.queue_mask == 5


def test_difference_names_the_fields() -> None:
    params = PRESETS["small"]
    names = [name for name, _ in observation(params)]
    for name in names:
        assert difference(params, 0, pack(params, {name: 1})) == [(name, 0, 1)]


def test_consumers_are_ready_as_often_as_wanted() -> None:
    consumers = Consumers(ReadyPattern(25), ReadyPattern(70, 8), ALWAYS, 1)
    counts = [0, 0, 0]
    for _ in range(4000):
        for index, ready in enumerate(consumers.step()):
            counts[index] += ready
    assert abs(counts[0] - 1000) < 150
    assert abs(counts[1] - 2800) < 300
    assert counts[2] == 4000
    assert not consumers.always
    assert Consumers(ALWAYS, ALWAYS, ALWAYS, 1).always


@pytest.mark.parametrize("wrong", [{"percent": 4}, {"percent": 101}, {"burst": 0}])
def test_wrong_pattern_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ReadyPattern(**wrong)
