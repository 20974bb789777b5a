"""Running a cell: its output as it comes, an interrupt to the program, an end in one line."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from IPython.display import display

from ctrt.linux import processes
from ctrt_kernel import fold, reader
from ctrt_kernel.pace import GAP_SECONDS, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine import Engine
    from ctrt.engine.container import Container
    from ctrt.engine.prepared import Prepared, Stop

GRACE_SECONDS = 0.5


class Wishes:
    """What the options of a cell ask for.

    `stdin` is the program's standard input (None: empty); `keep` names the streams ("stdout",
    "stderr") that are kept instead of shown; with `draw` the plan must be one for tracing, and
    what it returns is displayed before the program's first instruction. `asks` lets the program
    ask the reader for input, `terminal` gives it a terminal (the plan is one for tracing, too),
    `rich` lets it show things; with `holds` its input stays open and empty as long as it lives;
    with `steps` the reader is asked before each step of the start.
    """

    def __init__(
        self,
        *,
        stdin: bytes | None = None,
        keep: tuple[str, ...] = (),
        draw: Callable[[Container], Any] | None = None,
        asks: bool = False,
        terminal: bool = False,
        rich: bool = False,
        holds: bool = False,
        steps: bool = False,
    ) -> None:
        self.holds = holds
        self.steps = steps
        self.stdin = stdin
        self.keep = keep
        self.draw = draw
        self.asks = asks or terminal
        self.terminal = terminal
        self.rich = rich


class Ended:
    """How a program ended: its status, and the output that was kept instead of shown."""

    def __init__(
        self, status: int, interrupted: bool, kept: dict[str, bytes], output: fold.Output | None
    ) -> None:
        self.status = status
        self.output = output
        """All that it printed, where that was too much to be shown."""
        self.interrupted = interrupted
        self.kept = kept


def start(
    engine: Engine,
    prepared: Prepared,
    wishes: Wishes,
    step: Callable[[Stop], bool] | None = None,
) -> Container:
    """Start a program; one that is traced still waits at its first instruction."""
    return engine.start(
        prepared,
        stdin=wishes.stdin is not None or wishes.asks or wishes.holds,
        terminal=wishes.terminal,
        step=step,
    )


def draw_first(container: Container, wishes: Wishes) -> None:
    """Draw it if that was asked for, and let it run."""
    if wishes.draw is not None:
        display(wishes.draw(container))
    container.release()


def carry_out(shell: InteractiveShell, engine: Engine, prepared: Prepared, wishes: Wishes) -> Ended:
    """Start a program and stay with it until it ends. Raises CtrtError where the start fails."""
    here = Here()
    sinks = {
        name: Sink(name, here, keep=name in wishes.keep, rich=wishes.rich and name == "stdout")
        for name in ("stdout", "stderr")
    }
    with Interrupts() as interrupts:
        step = None
        if wishes.steps:
            from ctrt_kernel.asking import Stepper

            step = Stepper(shell, interrupts, drawn=wishes.draw is not None)
        container = start(engine, prepared, wishes, step)
        quiet = None
        if wishes.asks:
            from ctrt_kernel.asking import Asker

            quiet = Asker(shell, container, interrupts)
        try:
            draw_first(container, wishes)
            interrupts.attach(container)
            status = container.stream(
                lambda name, data: sinks[name].write(data), wishes.stdin or b"", quiet=quiet
            )
        finally:
            interrupts.detach()
            container.close()
    for sink in sinks.values():
        sink.write(b"", final=True)
    output = here.end()
    kept = {name: sink.kept() for name, sink in sinks.items() if name in wishes.keep}
    return Ended(status, interrupts.count > 0, kept, output)


class Here:
    """The cell that runs now, as a place for output."""

    def __init__(self, where: str = '_output.text(), or _output.save("file")') -> None:
        self._pace = Pace()
        self._waits = ""
        self._note: Any = None
        self._fold = fold.Fold(self._tell, where) if reader.has_page() else None

    def stream(self, name: str, text: str) -> None:
        """Write to "stdout" or "stderr", as far as a page can show it."""
        if self._fold is not None:
            text = self._fold.take(name, text)
        if text:
            self._write(name, text)

    def end(self) -> fold.Output | None:
        """There is no more: send what was written; all of it where it was not all shown."""
        if self._fold is not None:
            for name, text in self._fold.rest():
                self._write(name, text)
        self.flush()
        return None if self._fold is None else self._fold.output

    def _tell(self, bundle: dict[str, Any]) -> None:
        self.flush()
        if self._note is None:
            self._note = display(bundle, raw=True, display_id=True)
        else:
            self._note.update(bundle, raw=True)

    def _write(self, name: str, text: str) -> None:
        if self._waits not in ("", name):
            self.flush()
        self._pace.wait_for(text)
        stream = getattr(sys, name)
        stream.write(text)
        # A kernel's stream sends by itself what stays in it; another would keep it.
        if self._pace.is_due() or not hasattr(stream, "flush_interval"):
            stream.flush()
            self._waits = ""
        else:
            self._waits = name

    def flush(self) -> None:
        """Send what was written."""
        if self._waits:
            getattr(sys, self._waits).flush()
            self._waits = ""

    def display(self, bundle: dict[str, Any]) -> None:
        """Display something in its forms."""
        self.flush()
        display(bundle, raw=True)


class Elsewhere(Here):
    """The cell that runs now, as a place for output of a thread that outlives it.

    ipykernel takes what a thread prints for output of the latest cell. A public way around that
    came with 7.4 only, so the messages are made here.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__("the latest of it is in the handle's .text()")
        self._note_id = ""
        self._kernel: Any = getattr(shell, "kernel", None)
        self._held: list[str] = []
        self._lock = threading.RLock()
        self._scheduled = False
        if self._kernel is not None:
            self._parent = self._kernel.get_parent("shell")

    def is_here(self) -> bool:
        """Whether that cell still is the one that runs."""
        return self._kernel is not None and bool(self._kernel.get_parent("shell") == self._parent)

    def _tell(self, bundle: dict[str, Any]) -> None:
        if self._kernel is None:
            super()._tell(bundle)
            return
        with self._lock:
            self.flush()
            kind = "update_display_data" if self._note_id else "display_data"
            self._note_id = self._note_id or os.urandom(16).hex()
            transient = {"display_id": self._note_id}
            self._send(kind, {"data": bundle, "metadata": {}, "transient": transient}, kind)

    def _write(self, name: str, text: str) -> None:
        if self._kernel is None:
            super()._write(name, text)
            return
        self._pace.wait_for(text)
        with self._lock:
            if self._waits not in ("", name):
                self.flush()
            self._waits = name
            self._held.append(text)
            if self._pace.is_due():
                self.flush()
            elif not self._scheduled:
                self._scheduled = True
                thread = self._kernel.iopub_thread
                thread.schedule(lambda: thread.io_loop.call_later(GAP_SECONDS, self._later))

    def _later(self) -> None:
        with self._lock:
            self._scheduled = False
            self.flush()

    def flush(self) -> None:
        """Send what was written."""
        if self._kernel is None:
            super().flush()
            return
        with self._lock:
            if self._held:
                name, text = self._waits, "".join(self._held)
                self._held.clear()
                self._waits = ""
                self._send("stream", {"name": name, "text": text}, f"stream.{name}")

    def display(self, bundle: dict[str, Any]) -> None:
        """Display something in its forms."""
        if self._kernel is None:
            super().display(bundle)
            return
        with self._lock:
            self.flush()
            content = {"data": bundle, "metadata": {}, "transient": {}}
            self._send("display_data", content, "display_data")

    def _send(self, kind: str, content: dict[str, Any], topic: str) -> None:
        thread, session, parent = self._kernel.iopub_thread, self._kernel.session, self._parent

        def send() -> None:
            session.send(thread, kind, content, parent=parent, ident=topic.encode())

        thread.schedule(send)


class Sink:
    """One of the two streams: bytes in, text out, a character that is cut in two kept whole.

    With `rich` the sequences of `ctrt_kernel.rich` are shown instead of written.
    """

    def __init__(self, name: str, place: Here, *, keep: bool = False, rich: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._name = name
        self._place = place
        self._kept: list[bytes] | None = [] if keep else None
        self._channel: Any = None
        if rich:
            from ctrt_kernel.rich import Channel

            self._channel = Channel()

    def write(self, data: bytes, *, final: bool = False) -> None:
        """Take output; `final` is its end."""
        if self._channel is None:
            self._write(data, final)
            return
        from ctrt_kernel.rich import Shown

        for part in self._channel.feed(data, final=final):
            if isinstance(part, bytes):
                self._write(part, False)
            elif isinstance(part, Shown):
                self._place.display(part.bundle)
            else:
                why = f"--display: a sequence of the program was left out: {part.why}\n"
                self._place.stream("stderr", why)
        if final:
            self._write(b"", True)

    def _write(self, data: bytes, final: bool) -> None:
        if self._kept is not None:
            self._kept.append(data)
        elif text := self._decoder.decode(data, final):
            self._place.stream(self._name, text)

    def kept(self) -> bytes:
        """What was kept."""
        return b"".join(self._kept or ())


class Interrupts:
    """While it is entered an interrupt of the cell goes to the program: SIGINT, then SIGKILL.

    Nothing is raised in the middle of a read, so no output is lost. Before there is a program
    the first interrupt waits for it, and a second one is a KeyboardInterrupt. Those that come when
    the program has ended, and while its cell ends, add nothing. In a subshell, which no signal
    reaches, this does nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._container: Container | None = None
        self._previous: Any = None
        self._timer: threading.Timer | None = None
        self._asking = False
        self._over = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is None:
            return
        late = self.count and callable(self._previous)
        signal.signal(signal.SIGINT, _after_a_moment(self._previous) if late else self._previous)

    def attach(self, container: Container) -> None:
        """There is a program now: it gets what came before."""
        self._container = container
        if self.count:
            self.deliver()

    def detach(self) -> None:
        """The program has ended."""
        self._container = None
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While the reader is asked an interrupt is a KeyboardInterrupt, which ends the question.

        Whoever asked delivers it to the program then.
        """
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def deliver(self) -> None:
        """Pass the latest interrupt on to the program."""
        container = self._container
        if container is None:
            return
        if self.count > 1:
            container.signal(int(signal.SIGKILL))
            return
        defaults = processes.is_dropped(container.pid, signal.SIGINT)
        container.signal(int(signal.SIGINT))
        if defaults:
            self._timer = threading.Timer(GRACE_SECONDS, self._kill)
            self._timer.start()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._asking:
            raise KeyboardInterrupt
        if self._container is not None:
            self.deliver()
        elif self.count > 1 and not self._over:
            raise KeyboardInterrupt

    def _kill(self) -> None:
        container = self._container
        if container is not None:
            try:
                container.signal(int(signal.SIGKILL))
            except OSError:
                pass  # it ended just now


def _after_a_moment(handler: Callable[[int, FrameType | None], Any]) -> Callable[..., None]:
    """The handler, but for a while not yet: a hasty reader presses stop more than once.

    A KeyboardInterrupt in what IPython does to show the first one would take its place.
    """
    until = time.monotonic() + GRACE_SECONDS

    def handle(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > until:
            handler(number, frame)

    return handle
