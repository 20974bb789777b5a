"""ctrt in a notebook: the kernel, the magics and the widget.

`%load_ext ctrt` brings the magics into any Python kernel; the kernel named `ctrt` has them from
the start. Importing this package loads neither IPython nor a widget.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.draw import Picture

__all__ = ["load_ipython_extension", "show", "unload_ipython_extension"]


def show(picture: Picture) -> Any:
    """A picture as a live widget; `selected` and `filter` are its traits.

    The value of a cell or the argument of `display()`. It needs ipywidgets and anywidget.
    """
    from ctrt_kernel.widgets import GraphWidget

    return GraphWidget(graph=picture.json())


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext ctrt_kernel`, which is the same as `%load_ext ctrt`."""
    from ctrt_kernel import extension

    extension.load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext ctrt_kernel`."""
    from ctrt_kernel import extension

    extension.unload_ipython_extension(shell)
