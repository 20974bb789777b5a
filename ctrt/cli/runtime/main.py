"""`ctrt-runtime`: read the words, do the verb, tell how it went as engines expect it.

An error is one sentence on standard error and, where a log was asked for, a line in it. Exit
statuses are runc's: 1 for what went wrong, 255 where `exec` could not start the process.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py
import sys

from ctrt.cli import bundle
from ctrt.cli.runtime import options
from ctrt.errors import CtrtError, ProgramError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.cli.runtime.options import Words
    from ctrt.runtime.plan import Plan

_EXEC_FAILED = 255
_LONGEST_WORD = 500


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    words = options.Words()
    ours = True
    try:
        words = options.parse(sys.argv[1:] if arguments is None else arguments)
        _check_log(words)
        return _do(words)
    except CtrtError as error:
        failed = words.verb == "exec" and words.operands  # what is no command line ends with 1
        sentence, status = str(error), _EXEC_FAILED if failed else 1
        ours = not isinstance(error, ProgramError)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        sentence, status = f"{words.verb}: {error.strerror or error}{place}", 1
        if words["debug"]:
            _trace()
    except Exception as error:
        if words["debug"]:
            _trace()
        sentence, status = f"internal error: {type(error).__name__}: {error}", 1
    log(words, "error", sentence, ours=ours)
    return status


def _check_log(words: Words) -> None:
    kind, colon, path = (words["log"] or "").partition(":")
    if colon and "/" not in kind:
        # As crun's callers write it.
        del words.values["log"]
        if kind != "file":
            raise CtrtError(f"--log: {kind!r} is no kind of log; it is file:PATH or PATH", status=1)
        words.values["log"] = path
    form = words["log-format"]
    if form not in (None, "text", "json"):
        words.values.pop("log-format")
        raise CtrtError(f"--log-format: {form!r} is neither text nor json", status=1)


def _do(words: Words) -> int:
    if words["version"]:
        from ctrt.runtime.records import VERSION

        print(f"ctrt-runtime version {_version()}\nspec: {VERSION}")
        return 0
    if words["help"] or not words.verb:
        print(options.help_text(words.verb))
        return 0 if words["help"] else 1
    # What the caller has open beside the standard streams is not for hooks or containers.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # that was the list itself
    from ctrt.cli.runtime import verbs
    from ctrt.runtime import existing

    existing.on_warning = lambda sentence: log(words, "warning", sentence)
    if words["debug"] or words["log-level"] == "debug":
        from ctrt.runtime import starting

        starting.on_plan = lambda plan: _explain(words, plan)
    return verbs.do(words)


def _version() -> str:
    from ctrt import __version__

    return __version__


def _trace() -> None:
    import traceback

    traceback.print_exc()


def _explain(words: Words, plan: Plan) -> None:
    """Tell each step of a plan before it is carried out."""
    from ctrt.runtime.plan import describe

    within = False
    for step in plan.steps:
        if step.where == "inside" and not within:
            within = True
            log(words, "debug", "child process in init()")
        for call in step.calls:
            for line in _as_runc_tells(call, words.verb):
                log(words, "debug", line)
            log(words, "debug", f"{step.where}: {step.name}: {describe(call)}")


def _as_runc_tells(call: tuple[Any, ...], verb: str) -> list[str]:
    """What runc's log says of a call, for those who follow a start by its words."""
    if call[0] == "clone":
        return ["nsexec container setup"]
    if call[0] == "affinity":
        return [f"nsexec: affinity: {sum(1 << cpu for cpu in call[1]):#x}"]
    if call[0] == "seccomp":
        return [f"seccomp filter flags: {call[2] if call[2:] else 0}"]
    if call[0] == "exec":
        entering = verb == "exec"
        return [
            "setns_init: about to exec"
            if entering
            else "init: closing the pipe to signal completion"
        ]
    return []


def one_line(sentence: str) -> str:
    """A sentence as one line that a terminal shows as it is, whatever names are told of in it."""
    if len(sentence) > _LONGEST_WORD:
        sentence = " ".join(
            word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD - 80]}...{word[-60:]}"
            for word in sentence.split(" ")
        )
    if sentence.isprintable():
        return sentence
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)


def log(words: Words, level: str, sentence: str, *, ours: bool = True) -> None:
    """Tell something: in the log, or where there is none on standard error; errors in both.

    What is for looking for a fault ("debug") is a line of the log's form in either. What is not
    `ours` to say is said there as the container's process says it with runc.
    """
    path = words["log"]
    if level == "warning" and words["log-level"] in ("error", "fatal", "panic"):
        return
    sentence = one_line(sentence)
    if path or words["log-format"] == "json" or level == "debug":
        from ctrt.runtime.records import timestamp

        if words["log-format"] == "json":
            from ctrt.oci import fastjson

            line = fastjson.dumps({"level": level, "msg": sentence, "time": timestamp()})
        else:
            quoted = sentence.replace("\\", "\\\\").replace('"', '\\"')
            line = f'time="{timestamp()}" level={level} msg="{quoted}"'
        try:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else 2
            os.write(target, (line + "\n").encode())
        except OSError as error:
            os.write(2, f"ctrt-runtime: the log {path}: {error.strerror}\n".encode())
        if not path or level == "debug":
            return
    if level == "error" or not path:
        prefix = "ctrt-runtime: " if ours else ""
        kind = "" if level == "error" else f"{level}: "
        try:
            os.write(2, f"{prefix}{kind}{sentence}\n".encode())
        except OSError:
            pass


def command() -> None:
    """The installed command: it ends at once, without taking the interpreter apart."""
    status = main()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 141
    bundle.renew()
    os._exit(status)  # noqa: SLF001  # as public as in os
