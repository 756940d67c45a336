"""What the host refuses: misuse and exhaustion, each as one line."""

__all__ = ["BadRange", "DoubleFree", "HostError", "OutOfMemory", "UseAfterFree"]


class HostError(Exception):
    """Base of every refusal of the host."""


class BadRange(HostError, ValueError):
    """An address range that is not mapped, not aligned, or not of the kind that the call needs (EINVAL, ENOMEM)."""


class OutOfMemory(HostError):
    """No free frame, hugetlb page or swap slot of the asked size."""


class DoubleFree(HostError, AssertionError):
    """A page was given back that is already free; a defect of the caller."""


class UseAfterFree(HostError, AssertionError):
    """A frame was used that belongs to nobody; a defect of the caller."""
