"""The part of ctypes that system calls need, without the rest of it.

`import ctypes` runs a thousand lines of Python and costs more than all the mounts of a container.
Its C module, `_ctypes`, has what is needed here: numbers, strings, structures and functions.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    _SimpleCData,
    addressof,
    byref,
    dlopen,
    dlsym,
    get_errno,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "C_INT",
    "C_LONG",
    "C_POINTER",
    "C_TEXT",
    "C_UINT",
    "C_UINT32",
    "C_UINT64",
    "C_ULONG",
    "C_USHORT",
    "Structure",
    "addressof",
    "byref",
    "function",
    "get_errno",
    "library",
    "sizeof",
]


def _simple(name: str, code: str) -> Any:
    """A C type by its struct(3) letter, as ctypes itself makes them."""
    made: Any = type(_SimpleCData)
    return made(name, (_SimpleCData,), {"_type_": code})


C_INT = _simple("C_INT", "i")
C_UINT = _simple("C_UINT", "I")
C_LONG = _simple("C_LONG", "l")
C_ULONG = _simple("C_ULONG", "L")
C_USHORT = _simple("C_USHORT", "H")
C_UINT32 = C_UINT
C_UINT64 = C_ULONG
C_POINTER = _simple("C_POINTER", "P")
C_TEXT = _simple("C_TEXT", "z")
"""On every Linux that this runs on an int has 32 bits, a long and a pointer 64."""


class _Function(CFuncPtr):  # type: ignore[misc,valid-type,unused-ignore]
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = C_INT


class _HoldingFunction(CFuncPtr):  # type: ignore[misc,valid-type,unused-ignore]
    """A function that keeps the interpreter's lock while it runs."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI
    _restype_ = C_INT


def library(name: str | None) -> int:
    """The handle of a shared library, or of the C library (None): dlopen(3). Raises OSError."""
    made: Any = dlopen
    return int(made(name, 2))  # RTLD_NOW


def function(
    handle: int, name: str, result: Any, *types: Any, holding: bool = False
) -> Callable[..., Any]:
    """A function of a library with the types of its result and arguments."""
    made = (_HoldingFunction if holding else _Function)(dlsym(handle, name))
    made.argtypes = types
    made.restype = result
    return made  # type: ignore[no-any-return,unused-ignore]
