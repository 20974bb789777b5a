"""Who takes the output of the cell that runs: a reader at a page, or a program such as nbclient."""

from __future__ import annotations

import os
from typing import Any

from IPython.core.getipython import get_ipython


def is_absent() -> bool:
    """Whether nobody is there to ask or to click: what nbclient and nbval say of themselves.

    Without a kernel there is a terminal.
    """
    kernel: Any = getattr(get_ipython(), "kernel", None)
    return kernel is not None and not getattr(kernel, "_allow_stdin", True)


def has_server() -> bool:
    """Whether a Jupyter server started this kernel: it sets this variable for its own."""
    return "JPY_SESSION_NAME" in os.environ


def has_page() -> bool:
    """Whether a page of a Jupyter server shows the output."""
    return has_server() and not is_absent()
