"""Hooks: programs that a configuration asks to be run at six moments of a container's life.

Each gets the container's state as JSON on its standard input. The hooks "prestart" and
"createRuntime" run in the runtime's namespaces before the container's root is changed,
"createContainer" in the container's namespaces at that moment, "startContainer" just before the
program, "poststart" after it, "poststop" after the end. Source: OCI runtime specification,
config.md, POSIX-platform Hooks, and runtime.md, Lifecycle.
"""

from __future__ import annotations

import _signal
import os
import select
import time

from ctrt.linux import calls as k
from ctrt.oci import fastjson
from ctrt.runtime.operations import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Hook = tuple[str, tuple[str, ...], tuple[str, ...] | None, float | None]

_SIGKILL = 9
_LARGEST_WORDS = 4096
_LONG = 3600
"""Seconds that poll(2) is asked to wait at most: it counts milliseconds in 31 bits."""
_OFTEN = 0.02
"""Seconds between two looks at a hook whose end nobody tells."""
OUTSIDE = ("prestart", "createRuntime", "poststart", "poststop")
"""The kinds that run in the runtime's namespaces; the others run in the container's."""


class HookError(OSError):
    """A hook failed: which one, and what it said."""


def of(config: dict[str, Any], kind: str) -> tuple[Hook, ...]:
    """The hooks of a kind as a plan has them: (path, arguments, environment or None, seconds)."""
    return tuple(
        (
            hook["path"],
            tuple(hook.get("args") or (hook["path"],)),
            tuple(hook["env"]) if hook.get("env") is not None else None,
            hook.get("timeout"),
        )
        for hook in (config.get("hooks") or {}).get(kind) or ()
    )


def run(kind: str, hooks: tuple[Hook, ...], state: dict[str, Any]) -> None:
    """Run hooks one after the other with the state on standard input.

    Raises HookError at the first that fails.
    """
    document = fastjson.dumps(state).encode()
    for index, hook in enumerate(hooks):
        try:
            _run(hook, document)
        except OSError as error:
            words = str(error.strerror)
            raise HookError(0, f"error running {kind} hook #{index}: {hook[0]}: {words}") from None


def operation(
    context: Context, kind: str, hooks: tuple[Hook, ...], environment: tuple[str, ...] = ()
) -> None:
    """The operation "hooks" of a plan.

    As with runc, those of the kind "createContainer" begin in the root that the container will
    have, and those inside that name no environment have `environment`: "startContainer" the
    program's.
    """
    inside = kind not in OUTSIDE
    state = {
        **context.about,
        "status": "created" if kind == "startContainer" else "creating",
        "pid": os.getpid() if inside else context.pid,
    }
    if inside:
        # What the runtime's own environment holds is not the container's to see.
        if context.home:
            environment = (*environment, f"HOME={context.home}")
        hooks = tuple(
            (path, args, environment if env is None else env, timeout)
            for path, args, env, timeout in hooks
        )
    if kind == "createContainer":
        os.fchdir(context.root())
    run(kind, hooks, state)


def _run(hook: Hook, document: bytes) -> None:
    path, arguments, environment, timeout = hook
    variables: dict[str, str] | os._Environ[str] = os.environ
    if environment is not None:
        variables = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    hook_input, ours = os.pipe()
    said, output = os.pipe()
    try:
        try:
            pid = os.posix_spawn(
                path,
                arguments,
                variables,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, hook_input, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                # Python ignores these two, and exec would keep that.
                setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),
            )
        finally:
            os.close(hook_input)
            os.close(output)
        words, status = _attend(pid, ours, said, document, timeout)
    finally:
        os.close(ours)
        os.close(said)
    if status is None:
        raise HookError(0, f"it did not end within {timeout} s, and was killed")
    code = os.waitstatus_to_exitcode(status)
    if code:
        how = f"exit status {code}"
        if code < 0:
            how = f"killed by signal {-code} ({(_signal.strsignal(-code) or 'unknown').lower()})"
        told = words.decode(errors="replace").strip()
        raise HookError(0, f"{how}, it said: {told}" if told else how)


def _attend(
    pid: int, to_hook: int, said: int, document: bytes, timeout: float | None
) -> tuple[bytes, int | None]:
    """Feed a hook and hear it until it ends: its first words, and its wait status (None: late)."""
    deadline = time.monotonic() + timeout if timeout else None
    os.set_blocking(to_hook, False)
    os.set_blocking(said, False)
    poll = select.poll()
    try:
        pidfd = k.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
    except OSError:
        pidfd = -1  # the container's filter, which its own hooks have too, may refuse it
    poll.register(said, select.POLLIN)
    poll.register(to_hook, select.POLLOUT)
    words, waiting, late = b"", document, False
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if pidfd < 0:
                left = _OFTEN if left is None else min(left, _OFTEN)
            ready = dict(poll.poll(None if left is None else min(left, _LONG) * 1000))
            if deadline is not None and time.monotonic() >= deadline and not ready:
                os.kill(pid, _SIGKILL)  # nobody has waited for it, so the number is its own
                deadline, late = None, True
            if to_hook in ready:
                try:
                    waiting = waiting[os.write(to_hook, waiting) :]
                except BrokenPipeError:
                    waiting = b""  # it does not want to know
                if not waiting:
                    poll.unregister(to_hook)
                    os.dup2(null, to_hook, inheritable=False)  # the end of its input
            if said in ready or pidfd in ready:
                piece = _read(said)
                if not piece and pidfd not in ready:
                    poll.unregister(said)
                words = (words + piece)[:_LARGEST_WORDS]
            if pidfd in ready or pidfd < 0:
                ended, status = os.waitpid(pid, 0 if pidfd in ready else os.WNOHANG)
                if ended:
                    return words + _read(said)[:_LARGEST_WORDS], None if late else status
    finally:
        os.close(null)
        if pidfd >= 0:
            os.close(pidfd)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


OPERATIONS = {"hooks": operation}
