"""Taking back what a plan did: by a start's own journal, and by that of an OCI container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Call = tuple[Any, ...]

_NOT_THERE = (2, 20, 36)
"""ENOENT, ENOTDIR, ENAMETOOLONG."""


def take_back(
    calls: tuple[Call, ...], operations: Mapping[str, Callable[..., Any]], context: Any = None
) -> None:
    """Carry out the undoing calls of a plan; what is not there any more is no error.

    Nor is what never could be: a name that is too long, or below a file.
    Raises the first OSError of another kind, after all the calls were tried.
    """
    failed: OSError | None = None
    for call in calls:
        try:
            operations[call[0]](context, *call[1:])
        except OSError as error:
            if error.errno not in _NOT_THERE:
                failed = failed or error
    if failed is not None:
        raise failed
