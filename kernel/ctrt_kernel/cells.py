"""Running a cell: its output as it comes, an interrupt to the program, an end in one line."""

from __future__ import annotations

import codecs
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self, TextIO

from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ctrt.engine import Engine, Prepared
    from ctrt.engine.container import Container

GRACE_SECONDS = 0.5


class Ended:
    """How a program ended: its status, and the output that was kept instead of shown."""

    def __init__(self, status: int, interrupted: bool, kept: dict[str, str]) -> None:
        self.status = status
        self.interrupted = interrupted
        self.kept = kept


def carry_out(
    engine: Engine,
    prepared: Prepared,
    *,
    stdin: bytes | None,
    keep: tuple[str, ...] = (),
    draw: Callable[[Container], Any] | None = None,
) -> Ended:
    """Start a program and stay with it until it ends.

    `stdin` is its standard input (None: empty); `keep` names the streams ("stdout", "stderr")
    that are kept. With `draw` the plan must be one for tracing: what it returns is displayed
    before the program's first instruction. Raises CtrtError where the start fails.
    """
    sinks = {name: _Sink(getattr(sys, name), name in keep) for name in ("stdout", "stderr")}
    with Interrupts() as interrupts:
        container = engine.start(prepared, stdin=stdin is not None)
        try:
            if draw is not None:
                display(draw(container))
                container.release()
            interrupts.attach(container)
            status = container.stream(lambda name, data: sinks[name].write(data), stdin or b"")
        finally:
            interrupts.detach()
            container.close()
    for sink in sinks.values():
        sink.write(b"", final=True)
    kept = {name: sink.text() for name, sink in sinks.items() if name in keep}
    return Ended(status, interrupts.count > 0, kept)


class _Sink:
    """One of the two streams: bytes in, text out, a character that is cut in two kept whole."""

    def __init__(self, stream: TextIO, keep: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stream = stream
        self._kept: list[str] | None = [] if keep else None

    def write(self, data: bytes, *, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        if self._kept is not None:
            self._kept.append(text)
        elif text:
            self._stream.write(text)
            self._stream.flush()

    def text(self) -> str:
        return "".join(self._kept or ())


class Interrupts:
    """While it is entered an interrupt of the cell goes to the program: SIGINT, then SIGKILL.

    Nothing is raised in the middle of a read, so no output is lost. Before there is a program
    the first interrupt waits for it, and a second one is a KeyboardInterrupt. In a subshell,
    which no signal reaches, this does nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._container: Container | None = None
        self._previous: Any = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def attach(self, container: Container) -> None:
        """There is a program now: it gets what came before."""
        self._container = container
        if self.count:
            self._forward(container)

    def detach(self) -> None:
        """The program has ended."""
        self._container = None
        if self._timer is not None:
            self._timer.cancel()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._container is not None:
            self._forward(self._container)
        elif self.count > 1:
            raise KeyboardInterrupt

    def _forward(self, container: Container) -> None:
        if self.count > 1:
            container.signal(int(signal.SIGKILL))
            return
        defaults = _interrupt_is_dropped(container.pid)
        container.signal(int(signal.SIGINT))
        if defaults:
            self._timer = threading.Timer(GRACE_SECONDS, self._kill)
            self._timer.start()

    def _kill(self) -> None:
        container = self._container
        if container is not None:
            try:
                container.signal(int(signal.SIGKILL))
            except OSError:
                pass  # it ended just now


def _interrupt_is_dropped(pid: int) -> bool:
    """Whether SIGINT would end this process, were it not the first of its pid namespace.

    The kernel drops signals that such a process has no handler for (pid_namespaces(7)), so
    `sleep` in a container could not be interrupted at all.
    """
    fields = {}
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields[name] = value.split()
        handled = int(fields["SigCgt"][0], 16) | int(fields["SigIgn"][0], 16)
    except OSError:
        return False
    return len(fields["NSpid"]) > 1 and fields["NSpid"][-1] == "1" and not handled >> 1 & 1
