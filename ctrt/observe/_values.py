"""The values that more than one part of the model is made of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from ctrt.linux import processes

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Unknown(NamedTuple):
    """Something that could not be read, and why, in words that fit behind "could not be read"."""

    reason: str


NOT_ALLOWED = Unknown("no permission to look into that process")
ABSENT = Unknown("this kernel does not have it")
ENDED = Unknown("the process ended while it was being looked at")
ENDING = Unknown("the process is about to end, and has left it")
ZOMBIE = Unknown("the process has ended, and its parent has not waited for it yet")


def without(kind: str) -> Unknown:
    """Why a process has no file for a namespace: it has left it, or this kernel has no such."""
    return ENDING if os.path.lexists(f"/proc/self/ns/{kind}") else ABSENT


def attempt(read: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T | Unknown:
    """The answer, or why there is none; a process that ended is `processes.Gone` as before."""
    try:
        return read(*arguments, **named)
    except processes.Gone:
        raise
    except PermissionError:
        return NOT_ALLOWED
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        return Unknown((error.strerror or str(error)).lower())
    except ValueError as error:
        return Unknown(str(error))
