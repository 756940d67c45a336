"""Checker of the answers: one for each accepted request, none for anything else, of the form that L5 and L7
give."""

from cocotb_tests.harness.errors import ProtocolError
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

__all__ = ["Answers"]

_AT_LOOKUP = frozenset(
    {
        Reason.SM_BAD_MODE, Reason.SM_PASID_IN_LEGACY, Reason.INTERRUPT_ADDRESS, Reason.SM_INTERRUPT_ADDRESS,
        Reason.ADDRESS_BEYOND_WIDTH, Reason.SM_ADDRESS_BEYOND_WIDTH, Reason.READ_DENIED, Reason.WRITE_DENIED,
        Reason.SM_READ_DENIED, Reason.SM_WRITE_DENIED,
    }
)  # fmt: skip
_NEVER_WALKED = frozenset(
    {
        Reason.SM_BAD_MODE,
        Reason.SM_PASID_IN_LEGACY,
        Reason.ADDRESS_BEYOND_WIDTH,
        Reason.SM_ADDRESS_BEYOND_WIDTH,
    }
)
_KNOWN = frozenset(int(reason) for reason in Reason)


class Answers:
    """L5, L7, C1: what may be answered, when, and on which port. `outstanding` maps tag to (cycle,
    request)."""

    __slots__ = ("_deepest", "outstanding")

    def __init__(self, params: IommuParams) -> None:
        self._deepest = params.large_pages
        self.outstanding: dict[int, tuple[int, tuple[int, ...]]] = {}

    def accepted(self, cycle: int, request: tuple[int, ...]) -> None:
        """A request was accepted."""
        tag = request[0]
        if tag in self.outstanding:
            raise ProtocolError("harness", cycle, f"tag {tag} was sent again before its answer")
        self.outstanding[tag] = (cycle, request)

    def answered(self, cycle: int, port: str, answer: tuple[int, ...]) -> None:
        """An answer was taken from `port`."""
        tag, reason, address, level, r, w, snoop = answer
        known = self.outstanding.pop(tag, None)
        if known is None:
            raise ProtocolError("L4", cycle, f"{port} answered tag {tag}, which has no open request")
        since, request = known
        if cycle < since + 2:
            raise ProtocolError("L7", cycle, f"{port} answered tag {tag}, accepted only in cycle {since}")
        if reason:
            if address or level or r or w or snoop:
                raise ProtocolError("L5", cycle, f"the fault of tag {tag} carries a translation: {answer!r}")
            if reason not in _KNOWN:
                raise ProtocolError("L5", cycle, f"tag {tag}: reason {reason:#x} is not defined")
            if reason not in _AT_LOOKUP if port == "hits" else reason in _NEVER_WALKED:
                raise ProtocolError(
                    "L2" if port == "hits" else "C2", cycle,
                    f"tag {tag}: reason {Reason(reason).name} cannot come from {port}",
                )  # fmt: skip
            return
        iova, write = request[4], request[5]
        offset = (1 << 12 + 9 * level) - 1
        if level > self._deepest or (address ^ iova) & offset:
            raise ProtocolError(
                "L5",
                cycle,
                f"tag {tag}: address {address:#x} of level {level} does not keep the offset of {iova:#x}",
            )
        if not (w if write else r):
            raise ProtocolError("L5", cycle, f"tag {tag}: answered without the permission that was asked for")

    def finish(self, cycle: int) -> None:
        """No request may be open at the end of a drained run."""
        if self.outstanding:
            tag, (since, request) = next(iter(self.outstanding.items()))
            raise ProtocolError(
                "C1", cycle,
                f"{len(self.outstanding)} requests were never answered; the first: tag {tag}, "
                f"iova {request[4]:#x}, accepted in cycle {since}",
            )  # fmt: skip
