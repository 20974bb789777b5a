r"""Progress of a pull: a line that changes while the pull goes on, and then is gone.

The first run of a notebook pulls, the second does not, and both must leave the same outputs.
So the line appears only when a pull takes a while, and is a widget shown without a text form:
nbval compares no widgets, but it compares streams (even where `\r` or clear_output takes them
back) and the first text of a display that is updated later. At the end the output is cleared
or, where other output may stand before it, made empty.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from IPython.display import clear_output, display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.images.pull import Progress

QUIET_SECONDS = 0.5
_INTERVAL_SECONDS = 0.1
_WIDGET = "application/vnd.jupyter.widget-view+json"


class Line:
    """Takes a pull's news; a context manager that takes the line away at its end.

    `alone`: nothing else was displayed in this cell before.
    """

    def __init__(self, shell: InteractiveShell, *, alone: bool) -> None:
        self._notebook = hasattr(shell, "kernel")
        self._alone = alone
        self._layers: dict[str, tuple[int, int]] = {}
        self._next = time.monotonic() + QUIET_SECONDS
        self._shown = False
        self._label: Any = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, news: Progress) -> None:
        """Take news of one layer."""
        self._layers[news.layer] = (news.done, news.total)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL_SECONDS
            self._show(self.text())

    def text(self) -> str:
        """All layers in one line."""
        done = sum(done for done, _ in self._layers.values())
        total = sum(total for _, total in self._layers.values())
        return f"{len(self._layers)} layers, {done / 1e6:.1f} of {total / 1e6:.1f} MB"

    def _show(self, text: str) -> None:
        if not self._notebook:
            if sys.stderr.isatty():
                print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
                self._shown = True
            return
        if self._label is None:
            try:
                from ipywidgets import Label
            except ImportError:
                self._next = float("inf")
                return
            self._label = Label(value=text)
            view = {"version_major": 2, "version_minor": 0, "model_id": self._label.model_id}
            self._handle = display({_WIDGET: view}, raw=True, display_id=True)
            self._shown = True
        self._label.value = text

    def __exit__(self, *_: object) -> None:
        if not self._shown:
            return
        if not self._notebook:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            return
        self._label.close()
        if self._alone:
            clear_output()
        else:
            self._handle.update({}, raw=True)
