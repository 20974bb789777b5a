"""Cells in the background: `%%container --bg` returns at once, and this is what it returns.

A thread for each job hands the program's output on to the cell that started it, also while
other cells run.
"""

from __future__ import annotations

import html
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ctrt.engine.container import ContainerError
from ctrt.linux import processes
from ctrt_kernel import cells

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine import Engine, Prepared
    from ctrt.engine.container import Container, Found
    from ctrt_kernel.files import Files

KEPT_BYTES = 8 << 20
"""How much of its latest output a job keeps for `text()`."""

_jobs: list[Job] = []
_lock = threading.Lock()


class Job:
    """A program in the background, and what can be done with it."""

    def __init__(
        self,
        shell: InteractiveShell,
        engine: Engine,
        prepared: Prepared,
        wishes: cells.Wishes,
        *,
        named: bool = False,
        quiet_about_status: bool = False,
        files: Files | None = None,
    ) -> None:
        self.name = prepared.name
        """The container's name; "" for a program of `%%unshare`."""
        self.what = prepared.what
        self._named = named
        self._stopped = False
        self._quiet_about_status = quiet_about_status
        self._files = files
        self._place = cells.Elsewhere(shell)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._status: int | None = None
        self._container = cells.start(engine, prepared, wishes)
        try:
            cells.draw_first(self._container, wishes)
        except BaseException:
            self._container.close()
            raise
        self._wishes = wishes
        self._thread = threading.Thread(target=self._follow, name=f"ctrt {self.what}", daemon=True)
        with _lock:
            _jobs.append(self)
        self._thread.start()

    @property
    def status(self) -> int | None:
        """The exit status; None while the program runs."""
        return self._status

    @property
    def container(self) -> Container:
        """The container itself."""
        return self._container

    @property
    def keeps(self) -> bool:
        """Whether it only waits, for the cells that run in it."""
        return self._wishes.holds

    @property
    def pid(self) -> int:
        """The first process's pid as the host sees it."""
        return self._container.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end, at most that long; the exit status, or None if it still runs."""
        # A thread's join() cannot be interrupted while it waits; short waits can.
        end = None if seconds is None else time.monotonic() + seconds
        while self._thread.is_alive() and (end is None or time.monotonic() < end):
            left = 1.0 if end is None else end - time.monotonic()
            self._thread.join(max(0.0, min(left, 1.0)))
        return self._status

    def stop(self, seconds: float = 10.0) -> int | None:
        """End it: SIGTERM, and SIGKILL after that many seconds; the exit status."""
        if self._status is None:
            self._stopped = True
            dropped = processes.is_dropped(self.pid, signal.SIGTERM)
            self.signal(signal.SIGTERM)
            self.wait(min(seconds, cells.GRACE_SECONDS) if dropped else seconds)
        if self._status is None:
            self.signal(signal.SIGKILL)
        return self.wait(10.0)

    def signal(self, number: int) -> None:
        """Send a signal to the program's process group, if it still runs."""
        if self._status is None:
            try:
                self._container.signal(int(number))
            except OSError:
                pass  # it ended just now

    def text(self) -> str:
        """Its standard output so far, at most the latest 8 MiB."""
        return b"".join(tuple(self._kept)).decode(errors="replace")

    def __repr__(self) -> str:
        return f"{self.what}, in the background: .wait(), .stop(), .text(), .status"

    def _repr_html_(self) -> str:
        # The cell that started it shows the same each time, however short the program is.
        if self._status is None or self._place.is_here():
            state = "runs in the background"
        else:
            state = f"ended with status {self._status}"
        name = f" as <b>{html.escape(self.name)}</b>" if self._named else ""
        return (
            f"<div><code>{html.escape(self.what)}</code> {state}{name}; "
            "<code>.wait()</code> <code>.stop()</code> <code>.text()</code> "
            "<code>.status</code></div>"
        )

    def _follow(self) -> None:
        rich = self._wishes.rich
        sinks = {
            name: cells.Sink(name, self._place, rich=rich and name == "stdout")
            for name in ("stdout", "stderr")
        }

        def take(name: str, data: bytes) -> None:
            if name == "stdout":
                self._kept.append(data)
                self._size += len(data)
                while self._size > KEPT_BYTES:
                    self._size -= len(self._kept.popleft())
            sinks[name].write(data)

        try:
            stdin = None if self._wishes.holds else self._wishes.stdin or b""
            status = self._container.stream(take, stdin)
        except OSError:
            status = 255  # the launcher is gone, and the program with it
        for sink in sinks.values():
            sink.write(b"", final=True)
        if self._files is not None:
            self._files.__exit__()
        if status and not self._quiet_about_status and not self._stopped:
            self._place.stream("stderr", f"{ContainerError(self.what, status)}\n")
        self._place.end()
        self._status = status
        with _lock:
            _jobs.remove(self)


def keep(shell: InteractiveShell, engine: Engine, prepared: Prepared) -> Job:
    """A container that waits (`--as`), whose first process reads what nobody writes."""
    return Job(shell, engine, prepared, cells.Wishes(holds=True), quiet_about_status=True)


WAIT = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do read line || exit 0; done"]
"""The first process of a container that waits: a shell's own words, so any image with one can."""


def named(engine: Engine, name: str) -> Container | Found:
    """The running container of that name: this kernel's, or another one's of the same store.

    Raises CtrtError.
    """
    for job in running():
        # A cell that runs in a container has that one's name, and no configuration of its own.
        if job.name == name and job.container.config is not None:
            return job.container
    return engine.find(name)


def stop_kept(name: str) -> None:
    """End a container that an earlier run of the cell has left, so that the name is free."""
    for job in running():
        if job.name == name and job.keeps:
            job.stop(cells.GRACE_SECONDS)


def running() -> list[Job]:
    """The jobs that have not ended."""
    with _lock:
        return list(_jobs)
