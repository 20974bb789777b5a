"""What a build is lent and must not keep: secrets, and the agent that holds ssh keys.

A secret is a file that RUN sees at a place that is only mounted, so it gets into no layer and no
key of the cache. The agent's socket is not lent itself: it is its owner's alone, and agents look
at who connects. RUN gets a socket of ours, and what comes there is passed on.

Source: Docker's reference for Dockerfiles, RUN --mount=type=secret and type=ssh.
"""

from __future__ import annotations

import os
import socket
import threading

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_LIMIT_BYTES = 500 << 10


def secrets(words: list[str]) -> dict[str, bytes]:
    """Read --secret id=NAME,src=FILE or id=NAME,env=VARIABLE; by default src is NAME."""
    found = {}
    for word in words:
        said = _fields(word, "--secret")
        name = said.pop("id", "")
        if not name:
            raise CtrtError(f"--secret {word!r} has no id=NAME")
        kind = said.pop("type", "file")
        path = said.pop("src", said.pop("source", ""))
        variable = said.pop("env", name if kind == "env" else "")
        if said or kind not in ("file", "env"):
            raise CtrtError(f"--secret {word!r}: expected id=NAME and src=FILE or env=VARIABLE")
        if variable:
            if variable not in os.environ:
                raise CtrtError(f"--secret {name}: the variable {variable} is not set")
            found[name] = os.environb[os.fsencode(variable)]
            continue
        try:
            with open(path or name, "rb") as file:
                found[name] = file.read(_LIMIT_BYTES + 1)
        except OSError as error:
            raise CtrtError(
                f"--secret {name}: {path or name} cannot be read: {error.strerror}"
            ) from None
        if len(found[name]) > _LIMIT_BYTES:
            raise CtrtError(f"--secret {name}: {path or name} has more than 500 KiB")
    return found


def agents(words: list[str]) -> dict[str, str]:
    """Read --ssh NAME[=SOCKET]; without a socket it is the one of SSH_AUTH_SOCK."""
    found = {}
    for word in words:
        name, _, path = word.partition("=")
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise CtrtError(
                f"--ssh {name}: no agent is known, as SSH_AUTH_SOCK is not set; start one with"
                f" ssh-agent, or name its socket: --ssh {name}=SOCKET"
            )
        if not os.path.exists(path):
            raise CtrtError(f"--ssh {name}: there is no socket {path}")
        found[name] = path
    return found


def _fields(word: str, option: str) -> dict[str, str]:
    found = {}
    for part in word.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise CtrtError(f"{option} {word!r}: expected KEY=VALUE,KEY=VALUE, and {part!r} is not")
        found[key] = value
    return found


class Relay:
    """A socket at `path` that whoever reaches it may connect to; what comes goes to `target`."""

    def __init__(self, path: str, target: str) -> None:
        self._target = target
        self._ends: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(path)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise CtrtError(f"the socket {path} cannot be made: {error.strerror}") from None
        # The directory above it says who reaches it.
        os.chmod(path, 0o666)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="ctrt-agent", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._ends):
            _close(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            self._ends |= {near, far}
            try:
                far.connect(self._target)
            except OSError:
                self._end(near, far)
                continue
            for source, to in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, to), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                to.sendall(data)
        except OSError:
            pass
        self._end(source, to)

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            self._ends.discard(end)
            _close(end)


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who waits in it
    except OSError:
        pass
    end.close()
