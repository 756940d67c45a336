"""Selection and replacement blocks against obvious implementations."""

import random
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from cocotb_tests.unit.hdl.pysim import clocked, combinational, refused
from cocotb_tests.unit.hdl.reference import Tree
from hdl.lib.choose import encode, index_width, lowest, offer_next
from hdl.lib.replacement import Replacement


class Choose(wiring.Component):
    """The functions of `hdl.lib.choose` side by side."""

    def __init__(self, count: int) -> None:
        self.count = count
        index = index_width(count)
        super().__init__(
            {
                "candidates": In(count),
                "pointer": In(index),
                "lowest": Out(count),
                "encoded": Out(index),
                "offered": Out(count),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wires only."""
        m = Module()
        m.d.comb += [
            self.lowest.eq(lowest(self.candidates)),
            self.encoded.eq(encode(self.lowest)),
            self.offered.eq(offer_next(m, self.candidates, self.pointer)),
        ]
        return m


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7)])
def test_index_width_holds_the_last_index(count: int, bits: int) -> None:
    """Widths for literal counts."""
    assert index_width(count) == bits


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_choose_every_mask_and_pointer(count: int) -> None:
    """Lowest bit, its index, and the first at or after a pointer, for every input."""
    dut = Choose(count)

    async def bench(ctx: Any) -> None:
        for mask in range(1 << count):
            chosen = [number for number in range(count) if mask >> number & 1]
            ctx.set(dut.candidates, mask)
            assert ctx.get(dut.lowest) == sum(1 << number for number in chosen[:1])
            assert ctx.get(dut.encoded) == sum(chosen[:1])
            for pointer in range(count):
                ctx.set(dut.pointer, pointer)
                order = [number for step in range(count) if (number := (pointer + step) % count) in chosen]
                assert ctx.get(dut.offered) == sum(1 << number for number in order[:1]), f"{mask:b} {pointer}"

    combinational(dut, bench)


@pytest.mark.parametrize("ways", [1, 2, 4, 16])
def test_replacement_equals_a_tree_of_objects(ways: int) -> None:
    """T4, T5: the line for a fill, and the state after touches by lookups and fills of one cycle."""
    dut, rng = Replacement(ways), random.Random(ways)

    async def bench(ctx: Any) -> None:
        tree = Tree(0, ways - 1)
        victims = set()
        for _ in range(1500):
            valid = (1 << ways) - 1 if rng.random() < 0.7 else rng.getrandbits(ways)
            present = [number for number in range(ways) if valid >> number & 1]
            existing = rng.choice(present) if present and rng.random() < 0.3 else None
            missing = [number for number in range(ways) if not valid >> number & 1]
            look, fill = rng.randrange(ways), rng.randrange(ways)
            looks, fills = rng.random() < 0.5, rng.random() < 0.5
            for signal, value in (
                (dut.look, looks), (dut.look_index, look), (dut.fill, fills), (dut.fill_index, fill),
                (dut.valid, valid), (dut.existing, 0 if existing is None else 1 << existing),
            ):  # fmt: skip
                ctx.set(signal, value)
            expected = existing if existing is not None else missing[0] if missing else tree.victim()
            assert ctx.get(dut.line) == expected
            if existing is None and not missing:
                victims.add(expected)
            await ctx.tick()
            if looks:
                tree.touch(look)
            if fills:
                tree.touch(fill)
        assert victims == set(range(ways)), "every line has been a victim"

    clocked(dut, bench)


def test_replacement_first_victims_of_four_ways() -> None:
    """Lines 0, 2, 1, 3 when every victim is filled in turn after reset: the heap order of T4, by hand."""
    dut = Replacement(4)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.valid, 0b1111)
        ctx.set(dut.fill, 1)
        seen = []
        for _ in range(5):
            seen.append(ctx.get(dut.line))
            ctx.set(dut.fill_index, seen[-1])
            await ctx.tick()
        assert seen == [0, 2, 1, 3, 0]

    clocked(dut, bench)


@pytest.mark.parametrize("ways", [0, 3, 12, -4])
def test_replacement_wrong_ways(ways: int) -> None:
    """Only powers of two have a tree."""
    refused(lambda: Replacement(ways), rf"^ways must be a power of two, not {ways}$")
