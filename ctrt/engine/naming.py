"""Names of containers and their host names."""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

__all__ = ["check", "host_name", "invent"]

_ADJECTIVES = "amber brave calm clear early fresh gentle keen lucid merry noble quick quiet swift"
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_NOUNS = "anchor beacon canal crane dock ferry gull harbor jetty lagoon pier quay reef sloop tide"


def invent(containers: str) -> str:
    """A name that no container below that directory has."""
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    while True:
        first, second, *rest = os.urandom(4)
        name = (
            f"{adjectives[first % len(adjectives)]}-{nouns[second % len(nouns)]}-"
            f"{bytes(rest).hex()}"
        )
        if not os.path.exists(f"{containers}/{name}"):
            return name


def check(wanted: str) -> str:
    """That name, if a container may have it. Raises CtrtError."""
    if not wanted or wanted[0] in "_.-" or wanted.strip(_CHARACTERS) or len(wanted) > 64:
        raise CtrtError(
            f"the name {wanted!r} is not letters, digits, '_', '.' or '-', at most 64, "
            "beginning with a letter or digit"
        )
    return wanted


def host_name(reference: str) -> str:
    """A container's host name where none is given: that of the image, so that it is stable."""
    name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")[:63] or "container"
