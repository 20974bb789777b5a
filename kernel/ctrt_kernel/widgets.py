"""A picture that stays connected to the kernel.

A picture shown as a plain result is drawn by the JupyterLab extension and needs no kernel. A
widget is for what is alive: Python learns what the reader selected, and can put another picture
in the same place. Both are drawn by the same JavaScript module, built from labextension/.

A notebook keeps only the text of a widget: its state belongs to the kernel that it lived in.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anywidget
import traitlets

from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Callable

    class Drawable(Protocol):
        """A picture of `ctrt.draw`, or anything that gives the same JSON."""

        def json(self) -> dict[str, Any]:
            """The picture as JSON."""


MODULE = Path(__file__).parent / "static" / "graph.js"
"""The view as one JavaScript module; it comes with the wheel, in a source tree it is built."""

MOST_OF_A_CORE = 0.03
"""What following something alive may cost."""


class GraphWidget(anywidget.AnyWidget):
    """A live picture: `GraphWidget(ctrt.draw.container(snapshot))`.

    `graph` is the picture's JSON, `selected` the id of the row or shape that the reader chose
    ("" is none), `filter` the words in the filter. All three follow the page and steer it.
    """

    graph = traitlets.Dict().tag(sync=True)
    selected = traitlets.Unicode("").tag(sync=True)
    filter = traitlets.Unicode("").tag(sync=True)

    def __init__(self, picture: Drawable | dict[str, Any] | None = None, **traits: Any) -> None:
        if picture is not None:
            traits["graph"] = _json(picture)
        super().__init__(_esm=_module(), **traits)

    def show(self, picture: Drawable | dict[str, Any]) -> None:
        """Put another picture in place of this one; selection and filter stay where they can."""
        self.graph = _json(picture)

    def __repr__(self) -> str:
        title = self.graph.get("title")
        name = type(self).__name__
        return f"{name}({title!r})" if title else f"{name}()"


class LiveGraph(GraphWidget):
    """A picture that is drawn anew while what it shows lives: `%ctrt graph --live`.

    `draw` makes the picture, every `seconds`; the page is told only when it has changed. When
    `draw` raises CtrtError, what was shown has ended: the last picture stays, and says so.
    """

    def __init__(self, draw: Callable[[], Drawable], *, seconds: float = 1.0) -> None:
        super().__init__(draw())
        self._draw = draw
        self._seconds = seconds
        self._stop = threading.Event()
        threading.Thread(target=self._follow, name="ctrt live graph", daemon=True).start()

    def stop(self) -> None:
        """Follow no longer; the last picture stays."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and take the widget from the page."""
        self.stop()
        super().close()

    def _follow(self) -> None:
        pause = self._seconds
        while not self._stop.wait(pause):
            before = time.thread_time()
            try:
                graph = _json(self._draw())
            except CtrtError:
                self.graph = {**self.graph, "title": f"{self.graph['title']} (ended)"}
                return
            if graph != self.graph:
                self.graph = graph
            # Where a look takes long, there are fewer of them.
            pause = max(self._seconds, (time.thread_time() - before) / MOST_OF_A_CORE)


def _json(picture: Drawable | dict[str, Any]) -> dict[str, Any]:
    return picture if isinstance(picture, dict) else picture.json()


def _module() -> str:
    """The JavaScript module's text.

    Raises CtrtError if it was not built, which only happens in a source tree.
    """
    try:
        return MODULE.read_text(encoding="utf-8")
    except OSError as error:
        raise CtrtError(
            f"the widget's JavaScript is missing at {MODULE}: "
            "build it with `npm ci && npm run build:prod` in labextension/"
        ) from error
