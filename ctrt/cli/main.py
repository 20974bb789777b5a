"""`ctrt`: parse the verb, do it, print the result; a user's mistake is one sentence.

Only what the verb needs is imported: the start of `ctrt run` is measured against C programs.
"""

from __future__ import annotations

import os
import sys

from ctrt.cli import bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.engine import Engine
    from ctrt.engine.options import Table
    from ctrt.images.pull import Progress


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from ctrt.errors import CtrtError

    arguments = sys.argv[1:] if words is None else words
    root = None
    if arguments and arguments[0].startswith("--root"):
        from ctrt.engine.options import split_root

        try:
            root, arguments = split_root(arguments)
        except CtrtError as error:
            print(f"ctrt: {error}", file=sys.stderr)
            return error.status
    if arguments[:1] == ["help"] and arguments[1:] and arguments[1] in _tables():
        print(_tables()[arguments[1]].help())
        return 0
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 125
    verb, rest = arguments[0], arguments[1:]
    try:
        return _do(root, verb, rest)
    except CtrtError as error:
        sys.stdout.flush()
        print(f"ctrt: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough.
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        return 141
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"ctrt: {verb}: {error.strerror or error}{place}", file=sys.stderr)
        return 125


def _tables() -> dict[str, Table]:
    from ctrt.engine.options import EXEC, RUN, UNSHARE
    from ctrt.engine.verbs import VERBS

    tables = {"run": RUN, "exec": EXEC, "unshare": UNSHARE}
    return {**tables, **{name: verb.table for name, verb in VERBS.items()}}


def _help() -> str:
    from ctrt.engine.verbs import overview

    lines = ["usage: ctrt [--root DIR] VERB [options] ...", "", "Linux containers you can see."]
    lines += overview(_tables())
    lines += [
        "",
        "--root names the directory of another store than the usual one (as CTRT_ROOT does).",
        "ctrt VERB --help tells the options of a verb.",
    ]
    return "\n".join(lines)


def _do(root: str | None, verb: str, rest: list[str]) -> int:
    from ctrt.engine import Engine
    from ctrt.errors import CtrtError

    if verb == "--version":
        verb = "version"
    if verb in ("run", "exec", "unshare"):
        from ctrt.cli import start

        do = {"run": start.run, "exec": start.enter, "unshare": start.unshare}[verb]
        return do(Engine(root), rest)
    import gc

    gc.enable()  # the command starts without; what serves, watches or pulls may live long
    from ctrt.engine.verbs import VERBS

    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, list(_tables()), 1)
        hint = f"did you mean {near[0]}?" if near else "see ctrt --help"
        raise CtrtError(f"there is no verb {verb!r}; {hint}")
    if "--help" in rest:
        print(VERBS[verb].table.help())
        return 0
    engine = Engine(root)
    try:
        return _print(engine, verb, rest)
    finally:
        engine.close()


def _print(engine: Engine, verb: str, rest: list[str]) -> int:
    from ctrt.engine.verbs import VERBS, Flow

    engine.recover()
    result = VERBS[verb](engine, rest, progress())
    if verb == "registry":
        print(f"serving {engine.root} at 127.0.0.1:{result.port}; end with Ctrl-C", flush=True)
        result.run()
        return 0
    if isinstance(result, Flow):
        for piece in result:
            print(piece, end="", flush=True)
        return 0
    text = str(result)
    if text:  # an archive on standard output must not get a line more
        print(text)
    return 0


def progress() -> _Bars | None:
    """Progress of a pull on standard error, where that is a terminal."""
    return _Bars() if sys.stderr.isatty() else None


class _Bars:
    """One line for all layers of a pull."""

    def __init__(self) -> None:
        from ctrt.images.progress import Tally

        self._tally = Tally()

    def __call__(self, news: Progress) -> None:
        """Take news of one layer."""
        self._tally.take(news)
        end = "\n" if self._tally.done >= self._tally.total > 0 else ""
        print(f"\r\033[K{self._tally}", end=end, file=sys.stderr)


def command() -> None:
    """The installed command: it ends at once, without taking the interpreter apart."""
    status = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 141
    bundle.renew()
    os._exit(status)
