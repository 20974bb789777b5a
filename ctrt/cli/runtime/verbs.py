"""What each verb does.

The ones that start and end containers are here; what shows, changes or waits is in modules of its
own, imported when it is asked for.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py
import sys

from ctrt.errors import CtrtError
from ctrt.linux import ospath
from ctrt.runtime.records import default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.cli.runtime.options import Words
    from ctrt.runtime.starting import Options

_STDIO = (0, 1, 2)


def do(words: Words) -> int:
    """Do the verb; the exit status."""
    verb = words.verb
    name = f"_{verb}"
    if name in globals():
        return globals()[name](words)  # type: ignore[no-any-return]
    from ctrt.cli.runtime import more

    return getattr(more, "containers" if verb == "list" else verb)(words)  # type: ignore[no-any-return]


def root_of(words: Words) -> str:
    """The directory that containers are known in."""
    return ospath.absolute(words["root"] or default_root())


def one(words: Words) -> str:
    """The one operand, a container's id."""
    if len(words.operands) != 1:
        raise CtrtError(
            f"{words.verb} takes one container ID, and was given {len(words.operands)}", status=1
        )
    return words.operands[0]


def make_options(words: Words) -> Options:
    """The options of create, run and exec that say how a process is started."""
    from ctrt.runtime.starting import Options, handed_over

    # Which processors a container uses is its configuration's to say, not its caller's.
    if len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        try:
            os.sched_setaffinity(0, range(1024))
        except OSError:
            pass
    made = Options()
    # A file of that name is the bundle's; others are found from where the caller is.
    if words["config"] and words["config"] != "config.json":
        made.config = ospath.absolute(words["config"])
    made.console_socket = words["console-socket"] and ospath.absolute(words["console-socket"])
    made.pid_file = words["pid-file"] and ospath.absolute(words["pid-file"])
    made.pidfd_socket = words["pidfd-socket"] and ospath.absolute(words["pidfd-socket"])
    made.preserve_fds = handed_over(words["preserve-fds"] or 0)
    made.no_pivot = bool(words["no-pivot"])
    made.no_new_keyring = bool(words["no-new-keyring"])
    made.cgroup_manager = manager(words)
    return made


def manager(words: Words) -> str:
    """Who makes cgroups: cgroupfs, systemd or nobody (disabled)."""
    chosen: str = words["cgroup-manager"] or ("systemd" if words["systemd-cgroup"] else "cgroupfs")
    if chosen not in ("cgroupfs", "systemd", "disabled"):
        raise CtrtError(
            f"--cgroup-manager: {chosen!r} is none of cgroupfs, systemd and disabled", status=1
        )
    return chosen


def enter_bundle(words: Words) -> str:
    """Go to the bundle's directory; its absolute path."""
    bundle = ospath.absolute(words["bundle"] or ".")
    try:
        os.chdir(bundle)
    except OSError as error:
        raise CtrtError(f"--bundle: {bundle}: {error.strerror}", status=1) from None
    return bundle


def _create(words: Words) -> int:
    from ctrt.runtime import creating

    identifier, made, root = one(words), make_options(words), root_of(words)
    record, process = creating.create(root, identifier, enter_bundle(words), made, stdio=_STDIO)
    process.stay()
    record.release()
    return 0


def _start(words: Words) -> int:
    from ctrt.runtime import existing

    existing.start(root_of(words), one(words))
    return 0


def _state(words: Words) -> int:
    from ctrt.oci import fastjson
    from ctrt.runtime import existing
    from ctrt.runtime.records import Record

    record = Record.find(root_of(words), one(words))
    print(fastjson.indented(existing.describe_more(record)))
    return 0


def _kill(words: Words) -> int:
    from ctrt.runtime import existing

    if not 1 <= len(words.operands) <= 2:
        raise CtrtError("kill takes a container ID and a signal", status=1)
    number = signal_number(words.operands[1] if words.operands[1:] else "SIGTERM")
    for identifier in _meant(words, words.operands[0]):
        existing.kill(root_of(words), identifier, number, everything=bool(words["all"]))
    return 0


def _meant(words: Words, text: str) -> list[str]:
    """The id, or with --regex those that it matches."""
    if not words["regex"]:
        return [text]
    import re

    from ctrt.runtime.records import Record

    try:
        pattern = re.compile(text)
    except re.error as error:
        raise CtrtError(f"--regex: {text!r} is no regular expression: {error}", status=1) from None
    return [record.id for record in Record.all(root_of(words)) if pattern.search(record.id)]


def signal_number(name: str) -> int:
    """A signal by number or by name, with or without SIG; 0 only asks whether it may be sent."""
    from ctrt.linux import signals

    number = 0 if name == "0" else signals.number(name)
    if number is None:
        hint = ": numbers are 0 to 64" if name.isdecimal() else ""
        raise CtrtError(f"unknown signal {name!r}{hint}", status=1)
    return number


def _delete(words: Words) -> int:
    from ctrt.runtime import existing

    for identifier in _meant(words, one(words)):
        existing.delete(root_of(words), identifier, force=bool(words["force"]))
    return 0


def _pause(words: Words) -> int:
    from ctrt.runtime import existing

    existing.pause(root_of(words), one(words))
    return 0


def _resume(words: Words) -> int:
    from ctrt.runtime import existing

    existing.resume(root_of(words), one(words))
    return 0


def _run(words: Words) -> int:
    from ctrt.cli.runtime import foreground

    identifier, made, root = one(words), make_options(words), root_of(words)
    made.detach = bool(words["detach"])
    bundle = enter_bundle(words)
    return foreground.run(root, identifier, bundle, made, keep=bool(words["keep"]))


def _exec(words: Words) -> int:
    from ctrt.cli.runtime import entering

    if not words.operands:
        raise CtrtError("exec takes a container ID and a command", status=1)
    return entering.execute(words)


def print_line(text: str) -> None:
    """Print at once: who reads it may not wait for our end."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
