"""What nbval needs to know about our notebooks; a plugin of pytest that acts only with nbval.

It sets aside the JSON form of a picture, whose text and SVG are compared already, and it lets
a test fail at once when its kernel has died, where nbval waits for half an hour.
"""

from __future__ import annotations

import time
from queue import Empty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import pytest

MIME = "application/vnd.ctrt.graph.v1+json"
_LOOK_SECONDS = 1.0


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Prepare nbval's collector of a notebook."""
    if type(collector).__module__ != "nbval.plugin" or not hasattr(collector, "skip_compare"):
        return
    if MIME not in collector.skip_compare:
        collector.skip_compare = (*collector.skip_compare, MIME)
    from nbval.kernel import RunningKernel

    if not getattr(RunningKernel.await_reply, "sees_death", False):
        RunningKernel.await_reply = _watching(RunningKernel.await_reply)


def _watching(await_reply: Any) -> Any:
    def watch(kernel: Any, msg_id: str, timeout: float | None = None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_SECONDS if end is None else end - time.monotonic()
            try:
                await_reply(kernel, msg_id, timeout=max(0.0, min(left, _LOOK_SECONDS)))
                return
            except Empty:
                if not kernel.is_alive():
                    raise RuntimeError("the kernel died while it ran this cell") from None
                if end is not None and time.monotonic() >= end:
                    raise

    watched: Any = watch
    watched.sees_death = True
    return watched
