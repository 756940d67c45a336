"""Corpora of table images with requests: formats `vtd-ss`, `vtd-legacy` and `vtd-iotlb`.

A corpus is JSON lines, gzip'd or not. Line 1 is the header, every further line an image. 64-bit values are
"0x" strings. Keys that the format does not name are ignored. Whatever cannot be used raises `InputError`, one
line of text.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cocotb_tests.inputs.errors import InputError

__all__ = [
    "Corpus",
    "CorpusRequest",
    "Expect",
    "Header",
    "Invalidate",
    "IotlbImage",
    "LegacyImage",
    "Poke",
    "SecondStageImage",
    "read_corpus",
]


def _wrong(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", "{allowed}", {"allowed": allowed})


def _hex(bits: int, align: int = 1, what: str = "value") -> BeforeValidator:
    allowed = f'a "0x" string of a {bits}-bit {what}' + (f", a multiple of {align:#x}" if align > 1 else "")

    def parse(value: Any) -> int:
        if not isinstance(value, str) or not value.startswith(("0x", "0X")) or "_" in value:
            raise _wrong(allowed)
        try:
            number = int(value, 16)
        except ValueError:
            raise _wrong(allowed) from None
        if number >> bits or number % align:
            raise _wrong(allowed)
        return number

    return BeforeValidator(parse)


def _mode(value: Any) -> str:
    names = {"legacy": "legacy", "lm": "legacy", "scalable": "scalable", "sm": "scalable"}
    if not isinstance(value, str) or value not in names:
        raise _wrong('"legacy" or "scalable"')
    return names[value]


Hex64 = Annotated[int, _hex(64)]
Word = Annotated[int, _hex(52, 8, "address")]
Page = Annotated[int, _hex(52, 4096, "address")]
RootPointer = Annotated[int, _hex(64)]
Address = Annotated[int, _hex(52, what="address")]
SourceId = Annotated[int, _hex(16)]
Number = Annotated[int, _hex(8, what="fault reason")]
Did = Annotated[int, Field(strict=True, ge=0, le=0xFFFF)]
Levels = Literal[3, 4, 5]
Haw = Annotated[int, Field(strict=True, ge=36, le=52)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Expect(_Model):
    """One verdict: a translation, a recorded fault, or a refusal that nobody recorded."""

    pa: Hex64 | None = None
    page: Hex64 | None = None
    """Bytes of the page; None for a request that passed untranslated, and in `allowed`."""
    fault: Number | None = None
    blocked: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Expect":
        if sum(value is not None for value in (self.pa, self.fault, self.blocked)) != 1:
            raise _wrong('exactly one of "pa", "fault" and "blocked": true')
        return self

    def __str__(self) -> str:
        if self.pa is not None:
            return f"pa {self.pa:#x}" + ("" if self.page is None else f" page {self.page:#x}")
        return "refused, not recorded" if self.blocked else f"fault {self.fault:#x}"


class CorpusRequest(_Model):
    """One access and what it may give."""

    iova: Hex64
    access: Literal["r", "w"]
    expect: Expect
    """What the recorded system answered."""
    alt: tuple[Number, ...] = ()
    """Reasons that a conforming walker may give instead."""
    spec: Expect | None = None
    """Judge by this instead of `expect`: the recorded system departs from the specification."""
    allowed: tuple[Expect, ...] | None = None
    """`vtd-iotlb`: all answers that entries seen since the last covering invalidation can give."""
    quirk: bool = False
    """The recorded answer is not an allowed one."""

    @property
    def write(self) -> bool:
        """A DMA write."""
        return self.access == "w"


class SequenceRequest(CorpusRequest):
    """A request inside a sequence."""

    op: Literal["req"]
    allowed: Annotated[tuple[Expect, ...], Field(min_length=1)]


class Poke(_Model):
    """Memory changed."""

    op: Literal["poke"]
    addr: Word
    value: Hex64


class Invalidate(_Model):
    """An invalidation was submitted and completed."""

    op: Literal["inv"]
    what: Literal[
        "iotlb-global", "iotlb-domain", "iotlb-page", "context-global", "context-domain", "context-device"
    ]
    did: Did = 0
    addr: Annotated[int, _hex(64, 4096, "address")] = 0
    am: Annotated[int, Field(strict=True, ge=0, le=63)] = 0
    ih: bool = False
    sid: SourceId = 0
    fm: Annotated[int, Field(strict=True, ge=0, le=3)] = 0

    @model_validator(mode="after")
    def _complete(self) -> "Invalidate":
        needed = {"iotlb-domain": ("did",), "iotlb-page": ("did", "addr", "am"), "context-domain": ("did",),
                  "context-device": ("sid",)}.get(self.what, ())  # fmt: skip
        for name in needed:
            if name not in self.model_fields_set:
                raise _wrong(f'the key "{name}", which {self.what} needs')
        return self


Operation = Annotated[SequenceRequest | Poke | Invalidate, Field(discriminator="op")]


class Header(_Model):
    """Line 1."""

    format: Literal["vtd-ss", "vtd-legacy", "vtd-iotlb"]
    haw: Haw
    sid: SourceId
    ram: Annotated[tuple[tuple[Address, Address], ...], Field(min_length=1)]
    """Half-open ranges of readable memory."""
    cap: Hex64 | None = None
    ecap: Hex64 | None = None
    snoop: bool = False
    """Bit 11 of a leaf is SNP, not reserved."""
    mode: Annotated[Literal["legacy", "scalable"], BeforeValidator(_mode)] = "legacy"
    levels: Levels | None = None
    tool: str = ""

    @model_validator(mode="after")
    def _ranges(self) -> "Header":
        last = 0
        for start, end in sorted(self.ram):
            if start >= end or start < last:
                raise _wrong("ram ranges [start, end) that are not empty and do not overlap")
            last = end
        return self


class _Image(_Model):
    id: int
    mem: dict[Word, Hex64]
    haw: Haw | None = None


class SecondStageImage(_Image):
    """`vtd-ss`: a second-stage table; caches are empty before every request."""

    format: Literal["vtd-ss"] = "vtd-ss"
    levels: Levels
    root: Page
    did: Did
    requests: tuple[CorpusRequest, ...]


class LegacyImage(_Image):
    """`vtd-legacy`: root and context tables are part of the memory."""

    format: Literal["vtd-legacy"] = "vtd-legacy"
    rtaddr: RootPointer
    requests: tuple[CorpusRequest, ...]


class IotlbImage(_Image):
    """`vtd-iotlb`: one sequence of requests, memory changes and invalidations; caches are kept."""

    format: Literal["vtd-iotlb"] = "vtd-iotlb"
    levels: Levels
    root: Page
    did: Did
    how: Literal["qi", "reg"] = "qi"
    ops: tuple[Operation, ...]

    @property
    def requests(self) -> tuple[CorpusRequest, ...]:
        """The requests among the operations."""
        return tuple(op for op in self.ops if isinstance(op, CorpusRequest))


Image = SecondStageImage | LegacyImage | IotlbImage

_IMAGES: dict[str, type[SecondStageImage] | type[LegacyImage] | type[IotlbImage]] = {
    "vtd-ss": SecondStageImage,
    "vtd-legacy": LegacyImage,
    "vtd-iotlb": IotlbImage,
}


def _path(location: tuple[int | str, ...]) -> str:
    """Readable place of an error; names of union members, which are not in the file, are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in ("req", "poke", "inv") or part.endswith("]"):
            continue
        else:
            text += f".{part}" if text else part
    return text


def _input_error(file: Path, line: int, error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    field, value = _path(first["loc"]), first["input"]
    shown = value if isinstance(value, (str, int, float, bool)) else json.dumps(value, default=str)
    if kind == "missing":
        return InputError(file, line, field, "", "this key")
    if kind == "wanted":
        allowed = str(context["allowed"])
    elif kind == "literal_error":
        allowed = str(context["expected"])
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = "'req', 'poke', 'inv'"
        field = f"{field}.op"
        shown = context.get("tag", "") if kind == "union_tag_invalid" else ""
        allowed = str(context.get("expected_tags", tags))
    else:
        allowed = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return InputError(file, line, field, shown, allowed)


class Corpus:
    """An open corpus: the header is read at once, images one by one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        lines = self._lines()
        number, text = next(lines, (1, ""))
        if not text:
            raise InputError(self.path, 1, "", "an empty file", "a header line")
        value = self._object(number, text)
        if "format" not in value:
            raise InputError(self.path, number, "format", "", f"a header with one of {', '.join(_IMAGES)}")
        try:
            self.header = Header.model_validate(value)
        except ValidationError as error:
            raise _input_error(self.path, number, error) from None
        self._rest = lines

    def images(self) -> Iterator[Image]:
        """The images in order; can be called once."""
        kind = _IMAGES[self.header.format]
        for number, text in self._rest:
            value = self._object(number, text)
            try:
                yield kind.model_validate(value)
            except ValidationError as error:
                raise _input_error(self.path, number, error) from None

    def _object(self, number: int, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise InputError(self.path, number, "", text, f"one JSON object ({message})") from None
        if not isinstance(value, dict):
            raise InputError(self.path, number, "", text, "one JSON object")
        return value

    def _lines(self) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            with self.path.open("rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
                with io.TextIOWrapper(stream, encoding="utf-8") as text:
                    for line in text:
                        number += 1
                        if line.strip():
                            yield number, line
        except UnicodeDecodeError:
            raise InputError(self.path, number + 1, "", "bytes that are no UTF-8", "UTF-8 text") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(self.path, number + 1, "", str(error), "a complete gzip file") from None
        except OSError as error:
            raise InputError(self.path, None, "", error.strerror or str(error), "a readable file") from None


def read_corpus(path: str | Path) -> Corpus:
    """Open a corpus; raises `InputError` here for a bad header and later for bad images."""
    return Corpus(path)
