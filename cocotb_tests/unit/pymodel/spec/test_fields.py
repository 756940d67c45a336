"""The vocabulary of `pymodel.spec`: what a declaration accepts, refuses and computes."""

from collections.abc import Callable

import pytest

from pymodel.spec.fields import Field, Format


def sample() -> Format:
    """Two fields with a gap below, between and above."""
    return Format("SAMPLE", 16, Field("low", 1, 3), Field("high", 8, 4, "text", ignored=True), source="test")


def test_a_field_knows_its_bits() -> None:
    field = Field("x", 12, 40)
    assert (field.lsb, field.msb, field.width) == (12, 51, 40)
    assert field.mask == 0x000F_FFFF_FFFF_F000
    assert not field.ignored
    assert Field("bit", 0, 1).mask == 1


def test_reserved_is_what_no_field_names() -> None:
    assert sample().reserved == 0b1111_0000_1111_0001
    assert Format("FULL", 8, Field("all", 0, 8), source="test").reserved == 0
    assert Format("NONE", 8, source="test").reserved == 0xFF


def test_pack_and_unpack() -> None:
    format_ = sample()
    word = format_.pack(low=0b101, high=0b1001)
    assert word == 0b1001_0000_1010
    assert format_.unpack(word) == {"low": 0b101, "high": 0b1001}
    assert format_.unpack(0xFFFF) == {"low": 7, "high": 15}
    assert format_.get(word, "high") == 9
    assert format_.pack() == 0
    for low in range(8):
        for high in range(16):
            assert format_.unpack(format_.pack(low=low, high=high)) == {"low": low, "high": high}


def test_looking_at_a_format() -> None:
    format_ = sample()
    assert format_.mask("low") == 0b1110
    assert format_.mask("low", "high") == 0b1111_0000_1110
    assert format_.mask() == 0
    assert [field.name for field in format_] == ["low", "high"]
    assert "low" in format_
    assert "middle" not in format_
    assert format_["high"].ignored
    assert repr(format_) == "Format('SAMPLE', 16 bits)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Field("x", -1, 1), ValueError, r"field x: lsb >= 0 and width >= 1 wanted, not -1, 1"),
        (lambda: Field("x", 0, 0), ValueError, r"field x: lsb >= 0 and width >= 1 wanted, not 0, 0"),
        (lambda: Format("F", 8, Field("a", 0, 4), Field("b", 3, 2), source=""), ValueError,
         r"F\.b: bits 4:3 overlap another field"),
        (lambda: Format("F", 8, Field("a", 0, 8), Field("b", 2, 1), source=""), ValueError,
         r"F\.b: bits 2:2 overlap"),
        (lambda: Format("F", 8, Field("a", 7, 2), source=""), ValueError, r"F\.a: bit 8 lies outside 8 bits"),
        (lambda: Format("F", 8, Field("a", 0, 1), Field("a", 1, 1), source=""), ValueError,
         r"F: two fields are called 'a'"),
        (lambda: sample().pack(low=8), ValueError, r"SAMPLE\.low must fit 3 bits, not 0x8"),
        (lambda: sample().pack(low=-1), ValueError, r"SAMPLE\.low must fit 3 bits, not -0x1"),
        (lambda: sample().pack(middle=1), KeyError, r"middle"),
        (lambda: sample().get(0, "middle"), KeyError, r"middle"),
        (lambda: sample().mask("low", "middle"), KeyError, r"middle"),
        (lambda: sample()["middle"], KeyError, r"middle"),
    ],
)  # fmt: skip
def test_misuse(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_field_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Field("x", 0, 1).width = 2  # type: ignore[misc]
