"""Tree pseudo-LRU replacement (docs/timing.md T4, T5)."""

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.lib.choose import encode, index_width, lowest

__all__ = ["Replacement"]


class Replacement(wiring.Component):
    """Replacement state of `ways` lines (a power of two).

    Members: `look` touches line `look_index` while 1, then `fill` touches `fill_index`, both at the end of
    the cycle. `line` is where a fill goes now: the line set in `existing` (one-hot), else the lowest with a 0
    in `valid`, else the pseudo-LRU victim. Timing: `line` is combinational from `existing`, `valid` and the
    state.
    """

    def __init__(self, ways: int) -> None:
        if ways < 1 or ways & (ways - 1):
            raise ValueError(f"ways must be a power of two, not {ways}")
        self._ways = ways
        index = index_width(ways)
        super().__init__(
            {
                "look": In(1),
                "look_index": In(index),
                "fill": In(1),
                "fill_index": In(index),
                "existing": In(ways),
                "valid": In(ways),
                "line": Out(index),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Node bits in heap order; a node's 0 sends the victim search to the lower half."""
        m = Module()
        ways = self._ways
        depth = ways.bit_length() - 1
        nodes = Signal(ways)
        victim = Signal(index_width(ways))

        def touched(state: Value, enable: Value, index: Value) -> Value:
            bits: list[Value] = [Const(0, 1)]
            for level in range(depth):
                away = ~index[depth - level - 1]
                for position in range(1 << level):
                    node = len(bits)
                    on_path = index[depth - level : depth] == position if level else Const(1, 1)
                    bits.append(Mux(enable & on_path, away, state[node]))
            vector = Signal.like(nodes, name="touched")
            m.d.comb += [vector[number].eq(bit) for number, bit in enumerate(bits)]
            return vector

        if depth:
            after_look = touched(nodes, self.look, self.look_index)
            m.d.sync += nodes.eq(touched(after_look, self.fill, self.fill_index))
            path: list[Value] = []
            for level in range(depth):
                choices = Array(nodes[1 << level : 2 << level])
                prefix = Const(0, 1)
                for bit in path:
                    prefix = prefix << 1 | bit
                turn = Signal(name=f"turn_{level}")
                m.d.comb += turn.eq(choices[prefix] if level else nodes[1])
                path.append(turn)
            m.d.comb += [victim[depth - 1 - level].eq(turn) for level, turn in enumerate(path)]

        invalid = Signal(ways)
        m.d.comb += invalid.eq(~self.valid)
        with m.If(self.existing.any()):
            m.d.comb += self.line.eq(encode(self.existing))
        with m.Elif(invalid.any()):
            m.d.comb += self.line.eq(encode(lowest(invalid)))
        with m.Else():
            m.d.comb += self.line.eq(victim)
        return m
