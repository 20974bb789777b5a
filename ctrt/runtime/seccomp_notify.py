"""Filters that ask another process: SCMP_ACT_NOTIFY, and the agent at `listenerPath`.

The container's first process loads the filter and gets the descriptor by which the kernel will
ask. It hands that to the process outside over a socket pair, which sends it to the agent with the
container process state. After the filter is loaded the first process makes just one call before it
hands over, sendmsg(2): whatever else the profile lets the agent decide is answered by then.
Source: seccomp_unotify(2); config-linux.md of the OCI runtime specification, "The Container Process
State".
"""

from __future__ import annotations

import _socket
import os

from ctrt.linux import calls as k
from ctrt.oci import fastjson
from ctrt.runtime.plan import INSIDE, OUTSIDE, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.runtime.operations.context import Context

_NEW_LISTENER = 0x08
_TSYNC = 0x01
_ENDS = ("seccomp-inside", "seccomp-outside")
_SOURCE = "seccomp_unotify(2)"
_STATE_VERSION = "0.2.0"
"""Of the container process state: the one that config-linux.md shows, and agents know."""


def notifies(profile: dict[str, Any]) -> bool:
    """Whether a rule of a profile asks an agent; if none does, there need not be one."""
    return any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ())


def channel() -> Step:
    """The step, before the first process has descriptors of its own, that makes the way out."""
    return Step(
        "seccomp channel",
        OUTSIDE,
        [("seccomp_channel",)],
        why="the descriptor by which the kernel asks comes out of the container this way",
        source="unix(7), SCM_RIGHTS",
    )


def load(
    program: bytes,
    flags: int,
    path: str,
    metadata: str = "",
    status: str = "creating",
    *,
    needed: bool = True,
) -> list[Step]:
    """The steps that load a filter and give its agent the word.

    `flags` are those of seccomp(2), `path` and `metadata` the profile's listenerPath and
    listenerMetadata, `status` the container's; an agent that is not `needed` may be missing. Both
    must be done before the process outside ends.
    """
    # All threads at once makes no difference to the only one, and does not go with a listener.
    return [
        Step(
            "seccomp",
            INSIDE,
            [("seccomp_listener", program, flags & ~_TSYNC)],
            why="calls are refused, or another process decides about them",
            source=f"seccomp(2), {_SOURCE}",
            needs="no_new_privs or CAP_SYS_ADMIN",
        ),
        Step(
            "seccomp agent",
            OUTSIDE,
            [("seccomp_agent", path, metadata, status, needed)],
            why="the agent gets the descriptor by which the kernel asks it",
            source="OCI runtime specification, config-linux.md, Seccomp",
            needs=f"an agent that listens at {path}",
        ),
    ]


def _channel(context: Context) -> None:
    for name, end in zip(_ENDS, _socket.socketpair(), strict=True):
        context.fds[name] = end.detach()


def _listener(context: Context, program: bytes, flags: int) -> None:
    """Load a filter and send its descriptor out, with no other call in between or after."""
    end = _socket.socket(fileno=context.fds[_ENDS[0]])
    rights = bytearray(4)
    message = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    notify = k.seccomp_filter(program, flags | _NEW_LISTENER)
    rights[:] = notify.to_bytes(4, "little")
    end.sendmsg([b"n"], message)
    end.detach()  # closed by exec, as the notify descriptor is


def _agent(context: Context, path: str, metadata: str, status: str, needed: bool = True) -> None:
    """Send the notify descriptor and the container process state to the agent."""
    end = _socket.socket(fileno=context.fds[_ENDS[1]])
    try:
        _, ancillary, _, _ = end.recvmsg(1, _socket.CMSG_SPACE(4))
    finally:
        end.detach()
    if not ancillary:
        raise OSError(71, "the container did not send its notify descriptor", path)
    notify = ancillary[0][2][:4]
    document: dict[str, Any] = {
        "ociVersion": _STATE_VERSION,
        "fds": ["seccompFd"],
        "pid": context.pid,
        "metadata": metadata,
        "state": {**context.about, "status": status, "pid": context.pid},
    }
    if not metadata:
        del document["metadata"]
    agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        try:
            agent.connect(path)
        except OSError as error:
            if not needed:
                return
            words = (
                "failed to connect with seccomp agent: "
                f"the seccomp agent does not listen ({error.strerror})"
            )
            raise OSError(error.errno, words, path) from None
        data = fastjson.dumps(document).encode()
        sent = agent.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, notify)])
        if data[sent:]:  # even of nothing sendall() would tell that the agent has closed already
            agent.sendall(data[sent:])
    finally:
        agent.close()
        os.close(int.from_bytes(notify, "little"))


OPERATIONS: dict[str, Callable[..., None]] = {
    "seccomp_agent": _agent,
    "seccomp_channel": _channel,
    "seccomp_listener": _listener,
}
