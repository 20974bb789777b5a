"""Cgroups that systemd makes: a transient scope around a process, by D-Bus.

The messages are jeepney's to write: a small pure-Python library without dependencies, imported
only when somebody asks for systemd. Source: org.freedesktop.systemd1(5) and
systemd.resource-control(5).
"""

from __future__ import annotations

import os

from ctrt.linux.cgroups import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Properties = tuple[tuple[str, str, Any], ...]

_SECONDS = 30


class SystemdError(OSError):
    """What systemd, or the way to it, has against it."""

    def __init__(self, words: str) -> None:
        super().__init__(5, words)


class NoSystemdError(SystemdError):
    """There is no way to systemd: what it could have made is not there."""


def slice_path(name: str) -> str:
    """The path of a slice below the root: "a-b.slice" is /a.slice/a-b.slice. Raises ValueError."""
    stem = name.removesuffix(".slice")
    if stem == "-":
        return ""
    if stem == name or not stem or "/" in stem or "" in stem.split("-"):
        raise ValueError(f'"{name}" is not the name of a slice such as "machine.slice"')
    path, prefix = "", ""
    for part in stem.split("-"):
        prefix += part
        path += f"/{prefix}.slice"
        prefix += "-"
    return path


def user_root() -> str:
    """The cgroup of the caller's own systemd (user@UID.service), as a path below the mount.

    Found in the caller's own cgroup: in a user namespace the id of the caller is another.
    """
    for line in read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names not in ("", "name=systemd"):
            continue
        parts = path.split("/")
        for index, part in enumerate(parts):
            if part.startswith("user@") and part.endswith(".service"):
                return "/".join(parts[: index + 1])
    return f"/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"


def _address(user: bool) -> str:
    """The path of a bus's socket; an abstract one begins with a null byte."""
    if user:
        default = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") + "/bus"
        listed = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    else:
        default = "/run/dbus/system_bus_socket"
        listed = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")
    for address in listed.split(";"):
        kind, _, options = address.partition(":")
        for option in options.split(",") if kind == "unix" else ():
            key, _, value = option.partition("=")
            if key in ("path", "abstract"):
                return value if key == "path" else f"\0{value}"
    return default


def _connect(path: str) -> Any:
    """A socket to a bus that knows who the caller is.

    The bus takes the caller's id from the socket (EXTERNAL without a name): the id that a process
    in a user namespace knows is not the one that the bus sees. Raises OSError.
    """
    import _socket

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_SECONDS)
        connection.connect(path)
        connection.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\n")
        said = b""
        while said.count(b"\r\n") < 2:
            part = connection.recv(1024)
            if not part or b"REJECTED" in said + part:
                raise PermissionError(13, "it does not take our word for who we are")
            said += part
        connection.sendall(b"BEGIN\r\n")
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


class _Manager:
    """A connection to systemd."""

    def __init__(self, user: bool) -> None:
        try:
            import jeepney
            from jeepney.io.blocking import DBusConnection
        except ImportError:
            raise NoSystemdError(
                "--systemd-cgroup needs the Python package jeepney; install it, or leave the option"
            ) from None
        self.jeepney = jeepney
        path = _address(user)
        try:
            self.connection = DBusConnection(_connect(path))
        except (OSError, jeepney.DBusErrorResponse) as error:
            whose = "the user's" if user else "the system's"
            words = getattr(error, "strerror", None) or error
            raise NoSystemdError(
                f"{whose} D-Bus at {path} does not answer ({words}); is systemd running here?"
            ) from None
        self.address = jeepney.DBusAddress(
            "/org/freedesktop/systemd1",
            bus_name="org.freedesktop.systemd1",
            interface="org.freedesktop.systemd1.Manager",
        )

    def call(self, method: str, signature: str, *body: Any) -> Any:
        """Call a method of the manager; what it answers. Raises SystemdError with its words."""
        message = self.jeepney.new_method_call(self.address, method, signature, body)
        reply = self.connection.send_and_get_reply(message, timeout=_SECONDS)
        if reply.header.message_type is self.jeepney.MessageType.error:
            words = reply.body[0] if reply.body else reply.header.fields.get(4)
            raise SystemdError(f"systemd refuses {method}: {words}")
        return reply.body[0] if reply.body else None

    def job(self, method: str, signature: str, *body: Any) -> None:
        """Call a method that starts a job, and wait for the job. Raises SystemdError."""
        rule = self.jeepney.MatchRule(
            type="signal",
            interface="org.freedesktop.systemd1.Manager",
            member="JobRemoved",
            path="/org/freedesktop/systemd1",
        )
        bus = self.jeepney.DBusAddress(
            "/org/freedesktop/DBus",
            bus_name="org.freedesktop.DBus",
            interface="org.freedesktop.DBus",
        )
        add = self.jeepney.new_method_call(bus, "AddMatch", "s", (rule.serialise(),))
        self.connection.send_and_get_reply(add, timeout=_SECONDS)
        with self.connection.filter(rule, bufsize=100) as queue:
            job = self.call(method, signature, *body)
            while True:
                try:
                    message = self.connection.recv_until_filtered(queue, timeout=_SECONDS)
                except TimeoutError:
                    raise SystemdError(
                        f"systemd did not finish {method} in {_SECONDS} seconds"
                    ) from None
                if message.body[1] == job:
                    if message.body[3] != "done":
                        raise SystemdError(f"systemd's job for {method} ended: {message.body[3]}")
                    return

    def close(self) -> None:
        self.connection.close()


def start_scope(unit: str, pid: int, properties: Properties, *, user: bool) -> None:
    """Make a scope around a process; returns when the process is in its cgroup.

    `properties` are (name, D-Bus signature, value). Raises SystemdError.
    """
    manager = _Manager(user)
    try:
        values = [(name, (signature, value)) for name, signature, value in properties]
        values.append(("PIDs", ("au", [pid])))
        arguments: tuple[Any, ...] = ("ssa(sv)a(sa(sv))", unit, "fail", values, [])
        try:
            manager.job("StartTransientUnit", *arguments)
        except SystemdError as error:
            if "already" not in str(error):
                raise
            # A failed unit of that name is kept by systemd until somebody looks at it.
            manager.call("ResetFailedUnit", "s", unit)
            manager.job("StartTransientUnit", *arguments)
    finally:
        manager.close()


def set_properties(unit: str, properties: Properties, *, user: bool) -> None:
    """Change properties of a running unit. Raises SystemdError."""
    manager = _Manager(user)
    try:
        values = [(name, (signature, value)) for name, signature, value in properties]
        manager.call("SetUnitProperties", "sba(sv)", unit, True, values)
    finally:
        manager.close()


def stop(unit: str, *, user: bool) -> None:
    """Stop a unit, if it is there, and forget that it failed."""
    manager = _Manager(user)
    try:
        for ask, method, arguments in (
            (manager.job, "StopUnit", ("ss", unit, "replace")),
            (manager.call, "ResetFailedUnit", ("s", unit)),
        ):
            try:
                ask(method, *arguments)
            except SystemdError as error:
                if "not loaded" not in str(error):
                    raise
    finally:
        manager.close()
