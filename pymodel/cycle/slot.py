"""One walk slot, as the walker, the context stages and the front end see it."""

__all__ = ["CONTEXT", "DIRECTORY", "PASID", "ROOT", "Slot"]

ROOT, CONTEXT, DIRECTORY, PASID = 5, 6, 7, 8
"""Stages of a context walk; stages 0..4 are page levels (W1)."""


class Slot:
    """What a walk keeps (W1); its state is kept in bit masks of the walker."""

    __slots__ = ("address", "depth", "did", "entries", "error", "fpd", "iova", "key", "lanes",
                 "pasid", "pasid_valid", "permissions", "read", "reason", "scalable", "sid",
                 "stage")  # fmt: skip

    def __init__(self) -> None:
        self.stage = 0
        """ROOT, CONTEXT, DIRECTORY, PASID or a page level."""
        self.key = 0
        """Key among the live slots of its kind: (sid, pasid), or (DID, iova above bit 14)."""
        self.sid = self.pasid_valid = self.pasid = 0
        """Context slots: of the request; pasid becomes RID_PASID where the request has none (W6)."""
        self.scalable = 0
        self.did = self.depth = self.iova = 0
        """Page slots; iova without bits 14:0."""
        self.permissions = 0
        """R and W accumulated before the line being read."""
        self.address = 0
        """Byte address of the wanted entry."""
        self.read = 0
        """Packed payload of its read, valid bit included."""
        self.lanes: tuple[int, ...] = ()
        """The 8 entries of the line with which a page walk ended."""
        self.error = 0
        """The page walk ended with an access error (W5)."""
        self.reason = 0
        """Why a context walk failed (W6)."""
        self.fpd = 0
        """FPD of the context structures read so far (W6)."""
        self.entries = 0
        """Mask of the pending entries in WAIT or ANSWER for this slot."""
