"""A container's terminal: made in its own /dev/pts, and its master handed out.

The slave is opened from the master (TIOCGPTPEER), never by a name that the container could have
changed, and the mount of the same slave covers /dev/console. Source: pts(4), ioctl_tty(2),
OCI runtime specification, config.md, process.terminal.
"""

from __future__ import annotations

import _socket
import fcntl
import os

from ctrt.linux import calls as k
from ctrt.runtime.operations import Context, place

_TIOCSPTLCK, _TIOCGPTPEER, _TIOCSWINSZ, _TIOCGWINSZ = 0x40045431, 0x5441, 0x5414, 0x5413
_TIOCSCTTY = 0x540E
_TCGETS, _TCSETS, _TERMIOS, _ONLCR = 0x5401, 0x5402, 36, 0o4
"""Source: asm-generic/ioctls.h, termbits.h: a struct termios begins with c_iflag and c_oflag."""
_EINVAL, _ENOENT = 22, 2
_IN_ROOT = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS


def operation(
    context: Context, height: int, width: int, bind: bool, plain_lines: bool = False
) -> None:
    """The operation "console" of a plan, inside, after the step that begins a session.

    Makes a terminal, sends its master over the descriptor "console", and makes the slave the
    session's terminal and standard input, output and error. With `bind` it is /dev/console, too;
    with `plain_lines` it has no ONLCR: termios(3).
    Without a size it has that of the terminal among the streams that it takes the place of, from
    the first instruction on.
    """
    master = k.openat2(
        context.root(), "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, _IN_ROOT
    )
    try:
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise OSError(_EINVAL, "/dev/pts/ptmx is no terminal multiplexer", "")
        os.set_blocking(master, True)
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        size = (height, width) if width or height else _size_of_streams()
        if size:
            set_size(slave, size)
        if plain_lines:
            _leave_line_ends(slave)
        channel = _socket.socket(fileno=os.dup(context.fds["console"]))
        try:
            rights = master.to_bytes(4, "little")
            channel.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        finally:
            channel.close()
    finally:
        os.close(master)
    if bind:
        tree = k.open_tree(slave, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH)
        try:
            target = place(context, "/dev/console", "file")
            try:
                k.move_mount(tree, target)
            finally:
                os.close(target)
        finally:
            os.close(tree)
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)
    if slave > 2:
        os.close(slave)


OPERATIONS = {"console": operation}


def _leave_line_ends(terminal: int) -> None:
    settings = bytearray(fcntl.ioctl(terminal, _TCGETS, bytes(_TERMIOS)))
    flags = int.from_bytes(settings[4:8], "little") & ~_ONLCR
    settings[4:8] = flags.to_bytes(4, "little")
    fcntl.ioctl(terminal, _TCSETS, bytes(settings))


def _size_of_streams() -> tuple[int, int] | None:
    for number in range(3):
        try:
            return size_of(number)
        except OSError:
            pass  # no terminal
    return None


def set_size(terminal: int, size: tuple[int, int]) -> None:
    """Set a terminal's (height, width) in characters."""
    data = b"".join(number.to_bytes(2, "little") for number in size) + bytes(4)
    fcntl.ioctl(terminal, _TIOCSWINSZ, data)


def size_of(terminal: int) -> tuple[int, int]:
    """A terminal's (height, width) in characters. Raises OSError where it is none."""
    data = fcntl.ioctl(terminal, _TIOCGWINSZ, bytes(8))
    return int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")


def connect(path: str) -> int:
    """A descriptor connected to the socket that a terminal's master is to be sent to."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect(path)
    except OSError:
        channel.close()
        raise
    return channel.detach()


def pair() -> tuple[int, int]:
    """Two connected descriptors: for a terminal that this process looks after itself."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def receive(descriptor: int) -> int:
    """Take the master from the descriptor that it was sent to, and close that one."""
    channel = _socket.socket(fileno=descriptor)
    try:
        _, ancillary, _, _ = channel.recvmsg(64, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    finally:
        channel.close()
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], "little")
    raise OSError(_ENOENT, "no terminal came from the container", "")


def send(descriptor: int, other: int, name: bytes = b"pidfd") -> None:
    """Send a descriptor over a connected one, and close that."""
    channel = _socket.socket(fileno=descriptor)
    try:
        rights = other.to_bytes(4, "little")
        channel.sendmsg([name], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        channel.close()
