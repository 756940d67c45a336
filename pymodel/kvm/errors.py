"""Refusals: what KVM answers a caller that asks for something impossible, with the errno of the kernel."""

from typing import Any

__all__ = ["E2BIG", "EBUSY", "EEXIST", "EINVAL", "ENOENT", "ENOTTY", "ENXIO", "KvmError"]

ENOENT = 2
ENXIO = 6
E2BIG = 7
EBUSY = 16
EEXIST = 17
EINVAL = 22
ENOTTY = 25


class KvmError(ValueError):
    """One line with the field, what is allowed and the value; `errno` is the kernel's, positive."""

    def __init__(self, errno: int, field: str, allowed: str, value: Any) -> None:
        shown = f"{value:#x}" if type(value) is int and not -10 < value < 10 else repr(value)
        super().__init__(f"{field} must be {allowed}, not {shown}")
        self.errno = errno
        self.field = field
