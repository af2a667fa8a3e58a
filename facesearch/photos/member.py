"""What listings of zip and tar archives have in common."""

from __future__ import annotations

from facesearch.errors import PhotoError, Reason
from facesearch.settings import PhotoLimits


class Listing:
    """The members of an archive, as they are added.

    Attributes:
        path: of the archive.
        sizes: bytes of each member, by name.
        failures: what cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.sizes: dict[str, int] = {}
        self.failures: list[PhotoError] = []

    def where(self, name: str) -> str:
        """The path of a member, for messages and the ledger."""
        return f"{self.path}!/{name}"

    def add(self, raw: str, size: int) -> str | None:
        """List a file, and return the name it gets; None if its name is refused."""
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if raw.startswith("/") or ".." in parts or not parts:
            detail = "its name leads out of the archive; not read"
            self.failures.append(PhotoError(Reason.CORRUPT, self.where(raw), detail))
            return None
        name = "/".join(parts)
        self.sizes.pop(name, None)  # a later member of that name takes its place
        self.sizes[name] = size
        return name


def too_many_bytes(where: str, size: int, limits: PhotoLimits) -> PhotoError:
    """The refusal of a member that is larger than a photo may be."""
    return PhotoError(
        Reason.TOO_MANY_BYTES,
        where,
        f"{size:,} bytes, more than photos.max_bytes ({limits.max_bytes:,})",
    )
