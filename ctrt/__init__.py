"""ctrt: Linux containers you can see.

Importing the package costs nothing; what it offers is loaded when it is first named:

    >>> import ctrt
    >>> print(ctrt.run("busybox", ["echo", "hello"]).text())
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "CtrtError": ("ctrt.errors", "CtrtError"),
    "Engine": ("ctrt.engine", "Engine"),
    "draw": ("ctrt.draw", None),
    "observe": ("ctrt.observe", None),
    "pull": ("ctrt.engine", "pull"),
    "run": ("ctrt.engine", "run"),
}
__all__ = ["CtrtError", "Engine", "draw", "load_ipython_extension", "observe", "pull", "run"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ctrt' has no attribute {name!r}")
    import importlib

    module, attribute = _LAZY[name]
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext ctrt`: register the magics; they live in the package `ctrt_kernel`."""
    import importlib

    importlib.import_module("ctrt_kernel.extension").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext ctrt`: take the magics away, and end what they started."""
    import importlib

    importlib.import_module("ctrt_kernel.extension").unload_ipython_extension(shell)
