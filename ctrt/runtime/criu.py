"""What criu(8) is asked for, in its own protocol, and what it tells meanwhile.

The processes of a container may use a terminal whose master is outside. Only by this protocol
criu saves such a one, and hands out the master of the new one at the restore.

Messages are of protocol buffers, over a socket that `criu swrk` has from us. criu's options come as
a configuration file, which has the names of its command line; here it is one without a name.
It ends with what the machine's or the container's own file for criu says: what comes last counts.
Source: https://criu.org/RPC and rpc.proto of criu; criu(8), CONFIGURATION FILES;
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

DUMP, RESTORE, PRE_DUMP, _NOTIFY = 1, 2, 4, 6
"""What is asked for: enum criu_req_type."""

_KIND, _OPTIONS, _WELL = 1, 2, 3
"""Fields of a request, criu_req."""
_DONE, _RESTORED, _NOTICE = 2, 4, 5
"""Fields of an answer, criu_resp, whose kind has the request's number."""
_IMAGES, _PID, _LOG_LEVEL, _NOTICES, _SIBLING = 1, 2, 9, 12, 26
_INHERITED, _CGROUPS, _MASTERS, _FILE = 27, 34, 50, 51
"""Fields of the options, criu_opts."""
_IGNORE = 0
"""Cgroups are left alone: enum criu_cg_mode."""

_ANNOTATION, _USUAL_FILE = "org.criu.config", "/etc/criu/runc.conf"

Option = tuple[str, str]
"""A long option of criu's command line, and its value or ""."""


class Criu:
    """One criu that works for us. `words` is its command line, `theirs` what it must inherit."""

    def __init__(self, program: str) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs = theirs.detach()
        self.words = (program, "swrk", str(self.theirs))
        self._kept: list[int] = []

    def ask(
        self,
        kind: int,
        images: str,
        options: Iterable[Option],
        *,
        pid: int = 0,
        inherited: dict[str, int] | None = None,
        last: bytes = b"",
    ) -> None:
        """Say what it is to do; it may be started later.

        `pid` is the process to save, `inherited` what is handed in again at a restore: descriptors
        that criu has, by criu's name for what they take the place of. `last` are lines of a
        configuration file, which count more than `options`.
        """
        self._kept.append(os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        told = os.memfd_create("criu.conf", os.MFD_CLOEXEC)
        self._kept.append(told)
        lines = "".join(f"{name} {_quoted(value)}\n" for name, value in options)
        with open(told, "wb", closefd=False) as file:
            file.write(os.fsencode(lines) + last)
        wanted = [
            # criu opens this one by our /proc: it is not to be inherited.
            _number(_IMAGES, self._kept[0]),
            _number(_LOG_LEVEL, 4),
            _number(_NOTICES, 1),
            _number(_CGROUPS, _IGNORE),
            _number(_MASTERS, 1),
            _bytes(_FILE, f"/proc/{os.getpid()}/fd/{told}".encode()),
            _number(_SIBLING, 1) if kind == RESTORE else _number(_PID, pid),
            *(
                _bytes(_INHERITED, _bytes(1, name.encode()) + _number(2, number))
                for name, number in (inherited or {}).items()
            ),
        ]
        self._ours.send(_number(_KIND, kind) + _bytes(_OPTIONS, b"".join(wanted)))

    def attend(self, on_notice: Callable[[str, int, int], None] | None = None) -> int | None:
        """Wait until it is done: the pid of what it restored, 0 for another success, else None.

        `on_notice` hears where it is: criu's name of the moment (criu(8), --action-script), the
        restored first process (or 0), and the master of a terminal (or -1), which is closed
        thereafter. What it raises ends the work.
        """
        os.close(self.theirs)
        self.theirs = -1
        while True:
            data, rights, _, _ = self._ours.recvmsg(
                65536, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
            master = int.from_bytes(rights[0][2][:4], "little") if rights else -1
            try:
                if not data:
                    return None
                answer = _read(data)
                if answer.get(_KIND) != _NOTIFY:
                    break
                if on_notice:
                    on_notice(*_notice(answer), master)
            finally:
                if master >= 0:
                    os.close(master)
            self._ours.send(_number(_KIND, _NOTIFY) + _number(_WELL, 1))
        if not answer.get(_DONE):
            return None
        restored: Any = answer.get(_RESTORED, b"")
        pid: Any = _read(restored).get(1, 0)
        return int(pid)

    def close(self) -> None:
        """Let go of it: one that is still at work gives up."""
        self._ours.close()
        for descriptor in (*self._kept, self.theirs):
            if descriptor >= 0:
                os.close(descriptor)
        self._kept, self.theirs = [], -1


def configured(annotations: dict[str, str] | None) -> bytes:
    """The lines of the file for criu that a container's annotation names, or the usual one.

    As with runc, an empty name is that of no file, and one that cannot be read is passed over.
    """
    path = (annotations or {}).get(_ANNOTATION, _USUAL_FILE)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _notice(answer: dict[int, int | bytes]) -> tuple[str, int]:
    """A moment's name, and the pid that it tells: criu_notify."""
    told: Any = answer.get(_NOTICE, b"")
    fields: dict[int, Any] = _read(told)
    return fields.get(1, b"").decode(), fields.get(2, 0)


def _quoted(value: str) -> str:
    """A value as a configuration file has it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if value else ""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _read(message: bytes) -> dict[int, int | bytes]:
    """The fields of a message that has numbers and strings; the last counts."""
    found: dict[int, int | bytes] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while place < len(message):
        key = varint()
        if key & 7 == 2:
            length = varint()
            found[key >> 3] = message[place : place + length]
            place += length
        else:
            found[key >> 3] = varint()
    return found
