"""Live pictures for notebooks: `from ctrt.widgets import NamespaceGraph`.

They are Jupyter's widgets, so they live in the package `ctrt_kernel`; this module only knows where.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def __getattr__(name: str) -> Any:
    """A widget's class, loaded when it is first named (PEP 562)."""
    import importlib

    try:
        module = importlib.import_module("ctrt_kernel.widgets")
    except ModuleNotFoundError as error:
        raise CtrtError(
            f"ctrt.widgets needs the package {error.name}: pip install 'ctrt[jupyter]'"
        ) from None
    return getattr(module, name)
