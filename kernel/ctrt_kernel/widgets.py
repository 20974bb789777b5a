"""A picture that stays connected to the kernel.

A picture shown as a plain result is drawn by the JupyterLab extension and needs no kernel. A
widget is for what is alive: Python learns what the reader selected, and can put another picture
in the same place. Both are drawn by the same JavaScript module, built from labextension/.

The state of a widget belongs to the kernel that it lived in. What a notebook keeps is the picture
as it was when it was shown, in the forms of a plain result: there is something to see where the
kernel is gone, too.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anywidget
import traitlets

from ctrt.errors import CtrtError
from ctrt_kernel import reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    class Drawable(Protocol):
        """A picture of `ctrt.draw`, or anything that gives the same forms."""

        def text(self) -> str:
            """The picture in characters."""

        def svg(self) -> str:
            """The picture as SVG."""

        def json(self) -> dict[str, Any]:
            """The picture as JSON."""


__all__ = [
    "CapabilityGraph",
    "CgroupGraph",
    "ContainerGraph",
    "DifferenceGraph",
    "GraphWidget",
    "IdGraph",
    "LayerGraph",
    "LiveGraph",
    "MountGraph",
    "NamespaceGraph",
    "NetworkGraph",
    "StackGraph",
]

MODULE = Path(__file__).parent / "static" / "graph.js"
"""The view as one JavaScript module; it comes with the wheel, in a source tree it is built."""

MOST_OF_A_CORE = 0.025
"""What following something alive may cost."""

_MIME = "application/vnd.ctrt.graph.v1+json"
_VIEW = "application/vnd.jupyter.widget-view+json"


class GraphWidget(anywidget.AnyWidget):
    """A live picture: `GraphWidget(ctrt.draw.container(snapshot))`.

    `graph` is the picture's JSON, `selected` the id of the row or shape that the reader chose
    ("" is none), `filter` the words in the filter. All three follow the page and steer it.
    """

    graph = traitlets.Dict().tag(sync=True)
    selected = traitlets.Unicode("").tag(sync=True)
    filter = traitlets.Unicode("").tag(sync=True)

    def __init__(self, picture: Drawable | dict[str, Any] | None = None, **traits: Any) -> None:
        self._picture: Drawable | dict[str, Any] | None = None
        if picture is not None:
            self._picture = picture
            traits["graph"] = _json(picture)
        super().__init__(_esm=_module(), **traits)

    def show(self, picture: Drawable | dict[str, Any]) -> None:
        """Put another picture in place of this one; selection and filter stay where they can."""
        self._picture = picture
        self.graph = _json(picture)

    def __repr__(self) -> str:
        title = self.graph.get("title")
        name = type(self).__name__
        return f"{name}({title!r})" if title else f"{name}()"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and the picture as it is now for whoever reads the notebook later."""
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        if reader.is_absent():
            # nbclient stores the widget's state, and an export then shows nothing without a net.
            data.pop(_VIEW, None)
        if not isinstance(self._picture, dict) and self._picture is not None:
            data["text/plain"] = self._picture.text()
            data["image/svg+xml"] = self._picture.svg()
        if self.graph:
            data[_MIME] = self.graph
        return data, metadata


class LiveGraph(GraphWidget):
    """A picture that is drawn anew while what it shows lives: `%ctrt graph --live`.

    `draw` makes the picture, every `seconds`; the page is told only when it has changed. When
    `draw` raises CtrtError, what was shown has ended: the last picture stays, and says so.
    `live` tells whether it is followed, and setting it begins and ends that.
    """

    live = traitlets.Bool(default_value=False)

    def __init__(
        self, draw: Callable[[], Drawable], *, seconds: float = 1.0, live: bool = True
    ) -> None:
        super().__init__(draw())
        self._draw = draw
        self._seconds = seconds
        self._stop = threading.Event()
        self.live = live

    @traitlets.observe("live")
    def _switch(self, change: Any) -> None:
        self._stop.set()
        if change["new"]:
            self._stop = threading.Event()
            arguments = (self._stop,)
            threading.Thread(
                target=self._follow, args=arguments, name="ctrt live graph", daemon=True
            ).start()

    def stop(self) -> None:
        """Follow no longer; the last picture stays."""
        self.live = False

    def close(self) -> None:
        """Stop, and take the widget from the page."""
        self.stop()
        super().close()

    def _follow(self, stop: threading.Event) -> None:
        pause = self._seconds
        while not stop.wait(pause):
            before = time.thread_time()
            try:
                picture = self._draw()
                graph = _json(picture)
            except CtrtError:
                self.graph = {**self.graph, "title": f"{self.graph['title']} (ended)"}
                self.live = False
                return
            if not stop.is_set():
                self._picture = picture
                self.graph = graph  # traitlets tells nobody of the same again
            # Where a look takes long, there are fewer of them.
            pause = max(self._seconds, (time.thread_time() - before) / MOST_OF_A_CORE)


class _View(LiveGraph):
    """A view of `%ctrt graph` as a widget.

    Targets are what that verb takes: a container's name, a pid, "host", "podman:NAME" and the like.
    Raises CtrtError for one that is not there.
    """

    _view: tuple[str, ...] = ()

    def __init__(
        self, *targets: str | int, live: bool = False, seconds: float = 1.0, ids: bool = False
    ) -> None:
        words = [*(("--ids",) if ids else ()), "--", *self._view, *map(str, targets)]
        super().__init__(lambda: _drawn(words), seconds=seconds, live=live)


class ContainerGraph(_View):
    """A container or process: its namespaces, mounts, capabilities and cgroup in one picture."""

    _view = ("container",)


class NamespaceGraph(_View):
    """The namespaces of a target, or without one of the whole machine."""

    _view = ("namespaces",)


class MountGraph(_View):
    """The mount tree of a target; with a second one both, and what propagates between them."""

    _view = ("mounts",)


class CapabilityGraph(_View):
    """The capabilities of a target, and what executing a program makes of them."""

    _view = ("caps",)


class IdGraph(_View):
    """Which user and group id inside a target is which one outside."""

    _view = ("ids",)


class CgroupGraph(_View):
    """The cgroups of a target, or without one all of them, with limits and use."""

    _view = ("cgroups",)


class NetworkGraph(_View):
    """The network of a target, or without one of the whole machine."""

    _view = ("network",)


class StackGraph(_View):
    """Who started a target: the processes between it and init."""

    _view = ("stack",)


class LayerGraph(_View):
    """The layers of an image, by its name: what each adds, changes and deletes."""

    _view = ("image",)


class DifferenceGraph(LiveGraph):
    """What sets two targets apart. Raises CtrtError for one that is not there."""

    def __init__(
        self, first: str | int, second: str | int, *, live: bool = False, seconds: float = 1.0
    ) -> None:
        from ctrt.engine import default_engine
        from ctrt.engine.verbs.seeing import compare

        super().__init__(
            lambda: compare(default_engine(), str(first), str(second)), seconds=seconds, live=live
        )


def _drawn(words: Sequence[str]) -> Drawable:
    from ctrt.engine import default_engine
    from ctrt.engine.verbs import VERBS

    picture: Drawable = VERBS["graph"](default_engine(), words)
    return picture


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
