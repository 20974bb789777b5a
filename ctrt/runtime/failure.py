"""A failed step in one sentence, and a wait status as an exit status."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError
from ctrt.runtime.plan import THIS_MACHINE, Plan, describe

_EPERM, _ENOENT, _ENOEXEC, _EACCES, _ENOTDIR, _ENOSPC, _EUSERS = 1, 2, 8, 13, 20, 28, 87


class StepError(CtrtError):
    """A step of a start failed.

    `step` names it, `call` is the call as strace would show it, `errno` the kernel's answer.
    """

    def __init__(self, sentence: str, *, step: str, call: str, errno: int, status: int) -> None:
        super().__init__(sentence, status=status)
        self.step = step
        self.call = call
        self.errno = errno


def step_error(plan: Plan, step: int, call: int, errno: int, words: str) -> StepError:
    """The error of a failed step; `step` and `call` are indexes, -1 where it was none."""
    what = "the program" if plan.subject == THIS_MACHINE else plan.subject
    if not 0 <= step < len(plan.steps):
        return StepError(
            f"{what} did not start: {words}", step="", call="", errno=errno, status=125
        )
    failed = plan.steps[step]
    shown = describe(failed.calls[call]) if 0 <= call < len(failed.calls) else ""
    status = 125
    operation = failed.calls[call][0] if shown else ""
    if operation == "exec":
        status = 127 if errno in (_ENOENT, _ENOTDIR) else 126
        sentence = _exec_sentence(plan, failed.calls[call][1], failed.calls[call][2], errno, words)
    elif (
        # With more members the call joins namespaces, which fails for other reasons.
        operation in ("clone", "unshare")
        and len(failed.calls[call]) <= 3
        and errno in (_EPERM, _ENOSPC, _EUSERS)
    ):
        sentence = _clone_sentence(errno, words)
    elif operation == "chdir" and errno == _EACCES:
        sentence = (
            f"{what} did not start: who it runs as may not go into the directory "
            f"{failed.calls[call][1]}"
        )
    elif operation == "chdir":
        sentence = (
            f"{plan.subject} has no directory to start in at {failed.calls[call][1]}: {words}"
        )
    else:
        needs = f"; it needs {failed.needs}" if failed.needs and errno == _EPERM else ""
        sentence = (
            f'{what} did not start: the step "{failed.name}" failed at {shown}: '
            f"{words}{needs} [{failed.source}]"
        )
    return StepError(sentence, step=failed.name, call=shown, errno=errno, status=status)


def _exec_sentence(
    plan: Plan, arguments: tuple[str, ...], environment: tuple[str, ...], errno: int, words: str
) -> str:
    name = arguments[0]
    if errno in (_ENOENT, _ENOTDIR):
        if "/" in name:
            return f"{plan.subject} has no {name}, or not the interpreter that it names"
        search = next((e[5:] for e in environment if e.startswith("PATH=")), "")
        return f"{plan.subject} has no command {name!r} in its PATH ({search})"
    if errno == _EACCES:
        return f"{name} of {plan.subject} may not be executed: {words}"
    if errno == _ENOEXEC:
        return (
            f"{name} of {plan.subject} is nothing that this machine can execute: "
            f"it is for another architecture, or a script without a #! line"
        )
    return f"{name} of {plan.subject} cannot be executed: {words}"


def _clone_sentence(errno: int, words: str) -> str:
    if errno == _EPERM:
        return (
            f"new namespaces are refused here ({words}); an administrator can allow user "
            "namespaces with: sysctl kernel.unprivileged_userns_clone=1 (Debian) or "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
        )
    return (
        f"no more namespaces can be made here ({words}); look at "
        "/proc/sys/user/max_user_namespaces and its neighbours, which may be 0"
    )


def exit_status(status: int) -> int:
    """A wait(2) status as the shell has it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
