"""Typed values of JSON inputs for pydantic models, and the one line that a validation failure becomes."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from cocotb_tests.inputs.errors import InputError

__all__ = ["Address", "DwordAddress", "Hex", "PageAddress", "WordAddress", "hex_integer", "input_error"]

_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}").fullmatch
_ADDRESS_BITS = 52

_WANTED = {
    "missing": "this field",
    "int_type": "an integer",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _refuse(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{allowed}", {"allowed": allowed})


def hex_integer(last: int = (1 << 64) - 1, multiple: int = 1, allowed: str = "") -> BeforeValidator:
    """Validator of an integer as a hex string: 0..`last`, a multiple of `multiple` (a power of two)."""
    wanted = allowed or f'a hex string in "0x0".."{last:#x}"' + f", a multiple of {multiple}" * (multiple > 1)
    low = multiple - 1

    def check(value: object) -> int:
        if type(value) is not str or _HEX(value) is None:
            raise _refuse(wanted)
        number = int(value, 16)
        if number > last or number & low:
            raise _refuse(wanted)
        return number

    return BeforeValidator(check)


def _address(multiple: int = 1) -> BeforeValidator:
    tail = f", a multiple of {multiple}" if multiple > 1 else ""
    return hex_integer((1 << _ADDRESS_BITS) - 1, multiple, f"a hex string below 2**{_ADDRESS_BITS}{tail}")


Hex = Annotated[int, hex_integer(allowed='a hex string of at most 64 bits, like "0x1f"')]
"""64 bits, written as a hex string."""
Address = Annotated[int, _address()]
"""A physical byte address."""
DwordAddress = Annotated[int, _address(4)]
WordAddress = Annotated[int, _address(8)]
"""Where a 64-bit word stands."""
PageAddress = Annotated[int, _address(4096)]
"""Where a 4 KiB page stands."""


def input_error(
    file: str | Path, line: int | None, error: ValidationError, skip: int = 0, first: str = ""
) -> InputError:
    """The first finding of `error`, one about the field `first` before all others.

    `skip`: leading parts of the field's path to leave out, such as a union tag.
    """
    findings = error.errors(include_url=False)
    found = next((one for one in findings if one["loc"][:1] == (first,)), findings[0])
    kind, context = found["type"], found.get("ctx", {})
    path = ""
    for part in found["loc"][skip:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    value: object = found["input"]
    if kind == "json_invalid":
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        why = str(context.get("error", found["msg"])).partition(" at line ")[0]
        return InputError(file, line, "", text, f"one JSON object{' a line' * (line is not None)} ({why})")
    if kind == "missing":
        value = ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = str(context["discriminator"]).strip("'")
        tags = context.get("expected_tags", "").replace("'", "")
        return InputError(
            file, line, field, context.get("tag", ""), f"one of {tags}" if tags else "an event name"
        )
    if kind == "refused":
        wanted = str(context["allowed"])
    elif kind == "literal_error":
        wanted = str(context["expected"])
    else:
        wanted = _WANTED.get(kind, found["msg"][:1].lower() + found["msg"][1:])
    return InputError(file, line, path, value, wanted)
