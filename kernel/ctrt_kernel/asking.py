"""Standard input from the reader: a program that waits for a line makes the notebook ask for it.

Nothing tells the owner of a pipe or a terminal that somebody reads from it. But the kernel says
in which system call a process sleeps and on which descriptor (/proc/PID/syscall, proc(5)): one
that sleeps in a read of the input that it was given is waiting for the reader.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from IPython.core.error import StdinNotImplementedError
from IPython.display import display

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle
    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine.container import Container
    from ctrt.engine.prepared import Stop
    from ctrt_kernel.cells import Interrupts

END = ("\x04", "^D")
"""What a reader answers to end the input."""

_TTY = os.makedev(5, 0)
"""The controlling terminal of whoever opens it: tty(4)."""

# Numbers of (read, readv), (poll, ppoll) and (select, pselect6).
_CALLS = {
    "x86_64": ((0, 19), (7, 271), (23, 270)),
    "aarch64": ((63, 65), (73,), (72,)),
}


class Asker:
    """Called while a program is quiet: gives what to feed it.

    b"" is nothing yet, None the end of its input. A frontend that answers no questions
    (nbconvert, nbval) is an end.
    """

    def __init__(
        self, shell: InteractiveShell, container: Container, interrupts: Interrupts
    ) -> None:
        self._kernel = getattr(shell, "kernel", None)
        self._container = container
        self._interrupts = interrupts

    def __call__(self) -> bytes | None:
        """Look, and ask if the program waits."""
        container = self._container
        if not waits(container.pid, container.stdin_identity, container.has_terminal):
            return b""
        try:
            with self._interrupts.asking():
                answer = self._ask(container.hides_input())
        except (StdinNotImplementedError, EOFError):
            return None
        except KeyboardInterrupt:
            self._interrupts.deliver()
            return b""
        if answer in END:
            return None
        return f"{answer}\n".encode(errors="replace")

    def _ask(self, secret: bool) -> str:
        if self._kernel is None:
            import getpass

            return getpass.getpass("") if secret else input()
        if secret:
            return str(self._kernel.getpass("", stream=None))
        return str(self._kernel.raw_input(""))


class Stepper:
    """Called before each step of a start: shows it, and asks whether to do it.

    A frontend that answers no questions lets the rest go on. With `drawn` there is a picture of
    all steps as well, in which a mark moves on.
    """

    def __init__(
        self, shell: InteractiveShell, interrupts: Interrupts, *, drawn: bool = False
    ) -> None:
        self._drawn = drawn
        self._handle: DisplayHandle | None = None
        self._kernel = getattr(shell, "kernel", None)
        self._interrupts = interrupts
        self._stops = True

    def __call__(self, stop: Stop) -> bool:
        """Ask; no calls the start off."""
        if not self._stops:
            return True
        if self._drawn:
            self._draw(stop)
        print(stop, flush=True)
        question = "Enter: do it; c: go on without stopping; q: call it off "
        try:
            with self._interrupts.asking():
                ask = input if self._kernel is None else self._kernel.raw_input
                answer = str(ask(question)).strip()
        except (StdinNotImplementedError, EOFError):
            answer = "c"
        except KeyboardInterrupt:
            return False
        self._stops = answer != "c"
        return answer != "q"

    def _draw(self, stop: Stop) -> None:
        picture = stop.picture()
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)


def waits(pid: int, identity: tuple[int, int], terminal: bool = False) -> bool:
    """Whether a process, or one that it started, sleeps in a read of that file (device, inode).

    With `terminal` reading /dev/tty, as those do who ask for a password, is the same.
    """
    return any(_reads(process, identity, terminal) for process in _family(pid))


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for process in found:
        try:
            threads = os.listdir(f"/proc/{process}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{process}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
            except OSError:
                continue
    return found


def _reads(pid: int, identity: tuple[int, int], terminal: bool) -> bool:
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    reads, polls, selects = calls
    try:
        with open(f"/proc/{pid}/syscall") as file:
            words = file.read().split()
        number = int(words[0])
        first, second = int(words[1], 16), int(words[2], 16)
        if number in reads:
            descriptor = first
        elif number in polls and second == 1:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(first)
                descriptor = int.from_bytes(memory.read(4), "little")
        elif number in selects and first == 1:
            descriptor = 0
        else:
            return False
        status = os.stat(f"/proc/{pid}/fd/{descriptor}")
    except (OSError, ValueError, IndexError):
        return False  # it runs, or has just ended
    if terminal and status.st_rdev == _TTY:
        return True
    return (status.st_dev, status.st_ino) == identity
