"""The little of rtnetlink(7) that moving a network device into a container takes.

A device that changes its network namespace loses its addresses and goes down; a `Link` remembers
them and puts them back. Everything more about networks is for a library to do.
"""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_NETLINK_ROUTE = 0
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE_CREATE = 0x1, 0x4, 0x300, 0x500
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_SCOPE_LINK = 253
_IFF_UP = 1
_PERMANENT = 0x80


def _attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return size.to_bytes(2, "little") + kind.to_bytes(2, "little") + data + bytes(-size % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        size = int.from_bytes(data[:2], "little")
        if size < 4:
            break
        found[int.from_bytes(data[2:4], "little") & 0x3FFF] = data[4:size]
        data = data[size + -size % 4 :]
    return found


def _ask(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Send a message and yield the answers: (type, body). Raises OSError for a refusal."""
    channel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _NETLINK_ROUTE)
    try:
        header = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little")
        header += (flags | _REQUEST).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes(4)
        channel.send(header + body)
        while True:
            data = channel.recv(1 << 18)
            while len(data) >= 16:
                size = int.from_bytes(data[:4], "little")
                answer, rest = int.from_bytes(data[4:6], "little"), data[16:size]
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    number = -int.from_bytes(rest[:4], "little", signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield answer, rest
                if not flags & _DUMP:
                    return
                data = data[size + -size % 4 :]
    finally:
        channel.close()


def _do(kind: int, flags: int, body: bytes) -> None:
    for _ in _ask(kind, flags | _ACK, body):
        pass


def _info(index: int, flags: int = 0, change: int = 0) -> bytes:
    """A struct ifinfomsg."""
    return (
        bytes(4)
        + index.to_bytes(4, "little")
        + b"".join(number.to_bytes(4, "little") for number in (flags, change))
    )


def index_of(name: str) -> int:
    """The index of a network device of the caller's namespace. Raises OSError."""
    body = _info(0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    for _, answer in _ask(_GETLINK, 0, body):
        return int.from_bytes(answer[4:8], "little")
    raise OSError(19, os.strerror(19), name)


class Link:
    """A network device of the caller's namespace, with its global addresses."""

    __slots__ = ("addresses", "index", "name")

    def __init__(self, name: str) -> None:
        try:
            self.index = index_of(name)
        except OSError as error:
            raise OSError(
                error.errno, f"the network device {name!r} of the host: {error.strerror}"
            ) from None
        self.name = name
        self.addresses: list[tuple[bytes, dict[int, bytes]]] = []
        for kind, answer in _ask(_GETADDR, _DUMP, bytes(8)):
            ours = int.from_bytes(answer[4:8], "little") == self.index
            # Link-local ones are made anew; one that is not permanent is somebody's lease.
            if kind == _NEWADDR and ours and answer[2] & _PERMANENT and answer[3] < _SCOPE_LINK:
                self.addresses.append((answer[:4], _attributes(answer[8:])))

    def move(self, namespace: int, name: str) -> None:
        """Give the device to the network namespace of a descriptor, under a name."""
        body = _info(self.index, 0, _IFF_UP)
        body += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        body += _attribute(_IFLA_NET_NS_FD, namespace.to_bytes(4, "little"))
        try:
            _do(_NEWLINK, 0, body)
        except OSError as error:
            raise OSError(
                error.errno, f"moving the network device {self.name!r}: {error.strerror}"
            ) from None

    def restore(self, name: str) -> None:
        """In the namespace that the device was moved to: its addresses, and up, as it was."""
        index = index_of(name)
        for head, attributes in self.addresses:
            body = head[:2] + bytes([_PERMANENT]) + head[3:4] + index.to_bytes(4, "little")
            for kind in (_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST):
                if kind in attributes:
                    body += _attribute(kind, attributes[kind])
            _do(_NEWADDR, _REPLACE_CREATE, body)
        # A container that is given a device expects to use it: config-linux.md, Network Devices.
        _do(_NEWLINK, 0, _info(index, _IFF_UP, _IFF_UP))
