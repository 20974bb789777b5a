r"""Progress of a pull or a build: a bar that is there while it goes on, and then is gone.

The first run of a notebook pulls and builds, the second does not, and both must leave the same
outputs. So the bar appears only when the work takes a while, and is a widget shown without a text
form: nbval compares no widgets, but it compares streams (even where `\r` or clear_output takes
them back) and the first text of a display that is updated later. At the end the output is
cleared or, where other output may stand before it, made empty.
"""

from __future__ import annotations

import html
import importlib.util
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from IPython.display import clear_output, display

from ctrt.images.progress import Tally

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine.building import Event
    from ctrt.images.progress import Progress

QUIET_SECONDS = 0.5
_INTERVAL_SECONDS = 0.1
_WIDGET = "application/vnd.jupyter.widget-view+json"
_TAIL_LINES = 12
_KEPT_BYTES = 1 << 20


class Bar:
    """Takes a pull's news; a context manager that takes the bar away at its end.

    `alone`: nothing else was displayed in this cell before.
    """

    def __init__(self, shell: InteractiveShell, *, alone: bool) -> None:
        self._notebook = hasattr(shell, "kernel")
        self._alone = alone
        self._tally = Tally()
        self._next = time.monotonic() + QUIET_SECONDS
        self._widget: Any = None
        self._handle: Any = None
        self._printed = False
        self._lock = threading.Lock()
        self._later: threading.Timer | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, news: Progress) -> None:
        """Take news of one layer."""
        self._tally.take(news)
        self._refresh()

    def _refresh(self) -> None:
        """Show how far it is: now, or soon if that was done just now.

        Soon, not with the next news: those may take a minute.
        """
        with self._lock:
            wait = self._next - time.monotonic()
            if wait <= 0:
                self._show()
            elif self._later is None:
                self._later = threading.Timer(wait, self._catch_up)
                self._later.daemon = True
                self._later.start()

    def _catch_up(self) -> None:
        with self._lock:
            self._later = None
            if not self._ended:
                self._show()

    def _show(self) -> None:
        self._next = time.monotonic() + _INTERVAL_SECONDS
        if not self._notebook:
            self._print()
        elif self._widget is not None:
            self._update()
        elif importlib.util.find_spec("ipywidgets") is not None:
            self._widget = self._made()
            self._update()
            view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
            self._handle = display({_WIDGET: view}, raw=True, display_id=True)

    def _print(self) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{self._tally}", end="", file=sys.stderr, flush=True)
            self._printed = True

    def _made(self) -> Any:
        """The widget."""
        import ipywidgets

        self._bar = ipywidgets.FloatProgress(layout={"width": "20em"})
        self._words = ipywidgets.Label()
        return ipywidgets.HBox([self._bar, self._words])

    def _update(self) -> None:
        """Let the widget show what there is now."""
        self._bar.max = max(float(self._tally.total), 1.0)
        self._bar.value = float(self._tally.done)
        self._words.value = str(self._tally)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            if self._later is not None:
                self._later.cancel()
        if self._printed:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if self._widget is None:
            return
        _close(self._widget)
        if self._alone:
            clear_output()
        else:
            self._handle.update({}, raw=True)


class BuildBar(Bar):
    """Takes a build's news, too: its step, and the last lines that the step has printed.

    What a step printed is kept, for the case that it fails.
    """

    def __init__(self, shell: InteractiveShell, *, alone: bool) -> None:
        super().__init__(shell, alone=alone)
        self._step = ""
        self._number, self._total = 0, 1
        self.printed: list[tuple[str, bytes]] = []
        """The output of the step that runs: "stdout" or "stderr", and the bytes."""
        self._size = 0

    def step(self, event: Event) -> None:
        """Take news of the build."""
        if event.kind == "step":
            self._tally = Tally()
            self._step = f"Step {event.number} of {event.total}: {event.text}"
            self._number, self._total = event.number, event.total
            self.printed.clear()
            self._size = 0
        elif event.data:
            self.printed.append((event.kind, event.data))
            self._size += len(event.data)
            while self._size > _KEPT_BYTES:
                self._size -= len(self.printed.pop(0)[1])
        self._refresh()

    def _print(self) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{self._step}"[:100], end="", file=sys.stderr, flush=True)
            self._printed = True

    def _made(self) -> Any:
        import ipywidgets

        pull = super()._made()
        self._heading = ipywidgets.Label()
        self._steps = ipywidgets.IntProgress(layout={"width": "20em"})
        self._tail = ipywidgets.HTML()
        steps = ipywidgets.HBox([self._steps, self._heading])
        self._pull = pull
        return ipywidgets.VBox([steps, pull, self._tail])

    def _update(self) -> None:
        super()._update()
        self._pull.layout.display = None if 0 < self._tally.done < self._tally.total else "none"
        self._heading.value = self._step
        self._steps.max = self._total
        self._steps.value = self._number - 1
        latest: list[bytes] = []
        for _, data in reversed(self.printed):
            latest.insert(0, data)
            if sum(part.count(b"\n") for part in latest) > _TAIL_LINES:
                break
        lines = b"".join(latest)[-8192:].decode(errors="replace").splitlines()[-_TAIL_LINES:]
        text = "\n".join(line.rpartition("\r")[2] for line in lines)
        self._tail.value = f"<pre>{html.escape(text)}</pre>" if text else ""


def _close(widget: Any) -> None:
    """Close a widget and those in it."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
