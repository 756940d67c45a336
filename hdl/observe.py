"""The packed observation port (docs/timing.md O1): outputs of this cycle beside events of the last."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pymodel.spec.observation import observation
from pymodel.spec.params import IommuParams

__all__ = ["Observer"]

_FIRST_EVENT = "lookup"


class Observer(wiring.Component):
    """Packs `outputs` as they are and `events` one cycle later into `obs`; nothing else depends on it."""

    def __init__(self, params: IommuParams) -> None:
        fields = observation(params)
        split = [name for name, _ in fields].index(_FIRST_EVENT)
        self._outputs = data.StructLayout(dict(fields[:split]))
        self._events = data.StructLayout(dict(fields[split:]))
        super().__init__(
            {
                "outputs": In(self._outputs),
                "events": In(self._events),
                "obs": Out(self._outputs.size + self._events.size),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One register stage for the events."""
        m = Module()
        happened = Signal(self._events)
        m.d.sync += happened.eq(self.events)
        m.d.comb += [
            self.obs[: self._outputs.size].eq(self.outputs),
            self.obs[self._outputs.size :].eq(happened),
        ]
        return m
