"""Takes the packed observation apart: single fields, the ports of a cycle, and the events of the cycle
before."""

from collections.abc import Mapping

from pymodel.spec.observation import observation, payloads
from pymodel.spec.params import IommuParams

__all__ = ["EventDecoder", "PortDecoder", "difference", "field_places"]


def field_places(params: IommuParams) -> dict[str, tuple[int, int]]:
    """Field of the observation -> (lowest bit, mask after the shift)."""
    places, low = {}, 0
    for name, width in observation(params):
        places[name] = (low, (1 << width) - 1)
        low += width
    return places


def difference(params: IommuParams, expected: int, seen: int) -> list[tuple[str, int, int]]:
    """Fields that differ: (name, expected, seen)."""
    result = []
    for name, (low, mask) in field_places(params).items():
        want, have = expected >> low & mask, seen >> low & mask
        if want != have:
            result.append((name, want, have))
    return result


class PortDecoder:
    """The output ports of one cycle, with the attribute names of `pymodel.cycle.CycleModel`.

    For benches that run without the cycle model: `load` does what the model's prediction does elsewhere.
    """

    __slots__ = ("_ready", "_streams", "completions", "hits", "reads", "register_requests_ready",
                 "register_responses", "requests_ready", "writes")  # fmt: skip

    def __init__(self, params: IommuParams) -> None:
        self.hits: tuple[int, ...] | None
        self.completions: tuple[int, ...] | None
        self.reads: tuple[int, ...] | None
        self.writes: tuple[int, ...] | None
        self.register_responses: int | None
        places = field_places(params)
        ports = payloads(params)
        self._ready = (places["requests_ready"][0], places["register_requests_ready"][0])
        self._streams = [
            (port, places[f"{port}_valid"][0], tuple(places[f"{port}_{name}"] for name, _ in ports[port]))
            for port in ("hits", "completions", "reads", "writes", "register_responses")
        ]
        self.load(0)

    def load(self, obs: int) -> None:
        """Decode the observation of one cycle."""
        self.requests_ready = obs >> self._ready[0] & 1
        self.register_requests_ready = obs >> self._ready[1] & 1
        for port, valid, members in self._streams:
            if not obs >> valid & 1:
                setattr(self, port, None)
            elif port == "register_responses":
                low, mask = members[0]
                self.register_responses = obs >> low & mask
            else:
                setattr(self, port, tuple([obs >> low & mask for low, mask in members]))


class EventDecoder:
    """Where the events of the previous cycle and the state of the queue stand in the observation."""

    __slots__ = ("_known", "_lookup_mask", "_places", "error_low", "events_low", "queue_low", "queue_mask", "rest_low")

    LOOKUP = ("lookup", "lookup_replay", "lookup_pending", "lookup_slot", "lookup_level")

    def __init__(self, params: IommuParams) -> None:
        places = field_places(params)
        self.events_low = places["lookup"][0]
        self.rest_low = places["arrival"][0] - self.events_low
        self.queue_low = places["queue_state"][0]
        self.queue_mask = (1 << 18) - 1  # state and head
        self.error_low = places["queue_error"][0]
        names = [name for name, _ in observation(params)]
        self._places: Mapping[str, tuple[int, int]] = {
            name: (places[name][0] - self.events_low, places[name][1])
            for name in names[names.index("lookup") :]
        }

        self._lookup_mask = sum(self._places[name][1] << self._places[name][0] for name in self.LOOKUP)
        self._known: dict[int, tuple[int, ...]] = {}

    def lookup(self, events: int) -> tuple[int, ...]:
        """kind, replay, pending, slot, level of the events word (the observation from `events_low` up)."""
        word = events & self._lookup_mask
        found = self._known.get(word)
        if found is None:  # few different ones exist, and there is one in most cycles
            found = self._known[word] = self.group(word, self.places(*self.LOOKUP))
        return found

    def mask(self, name: str) -> int:
        """The bits of one event field, in place."""
        low, mask = self._places[name]
        return mask << low

    def places(self, *names: str) -> tuple[tuple[int, int], ...]:
        """Lowest bit and mask of event fields, for `group`."""
        return tuple([self._places[name] for name in names])

    @staticmethod
    def group(events: int, places: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        """Several event fields."""
        return tuple([events >> low & mask for low, mask in places])
