"""`ctrt run` and `ctrt unshare`: the same plan and executor as a cell, in this very process.

A command has no threads and little memory, so it needs no launcher: it carries out the plan
itself, passes its own standard streams on, forwards signals, and ends as the program ended.
"""

from __future__ import annotations

import _signal
import os
import select
import sys

from ctrt.engine import options as tables
from ctrt.errors import CtrtError
from ctrt.runtime import executor, failure, state
from ctrt.runtime.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.engine import Engine
    from ctrt.engine.prepared import Prepared, Stop


def run(engine: Engine, words: list[str]) -> int:
    """`ctrt run`: the exit status of the command."""
    if "--help" in words[:1]:
        print(tables.RUN.help())
        return 0
    options = _parsed(tables.RUN, words)
    if not options.operands:
        raise CtrtError("run: expected IMAGE [COMMAND [ARG...]]; see ctrt run --help")
    state.recover(engine.containers)
    image, *command = options.operands
    report = None
    if sys.stderr.isatty():
        from ctrt.cli.main import progress

        report = progress()
    if options.detach and options.tty:
        raise CtrtError("run: --tty cannot go with --detach: nobody would look at the terminal")
    if options.step and (options.detach or options.tty or options.interactive):
        raise CtrtError(
            "run: --step cannot go with --detach, --tty or --interactive: it asks at this terminal"
        )
    prepared = engine.prepare(
        image, command, options, progress=report, terminal=options.tty and not options.plan
    )
    if options.plan:
        return _show_plan(engine, prepared, options)
    for words_left_out in engine.warnings(prepared):
        print(f"ctrt: {words_left_out}", file=sys.stderr)
    if options.detach:
        print(engine.detach(prepared))
        return 0
    if options.step:
        return step_by_step(engine, prepared)
    return carry_out(prepared, keep_input=options.interactive, terminal=options.tty)


def _parsed(table: tables.Table, words: list[str]) -> tables.Values:
    options = table.parse(words)
    if options.svg and not options.plan:
        raise CtrtError(f"{table.verb}: --svg goes with --plan: it draws the steps of the start")
    return options


def _show_plan(engine: Engine, prepared: Prepared, options: tables.Values) -> int:
    if not options.svg:  # what draws is not loaded for words
        print(engine.plan_text(prepared))
        return 0
    from ctrt.engine.verbs.seeing import planned

    print(planned(engine, prepared, options))
    return 0


def step_by_step(engine: Engine, prepared: Prepared) -> int:
    """Start a container and ask before each step; the exit status of the command."""
    stops = True

    def ask(stop: Stop) -> bool:
        nonlocal stops
        if not stops:
            return True
        question = "Enter: do it; c: go on without stopping; q: call it off "
        print(f"{stop}\n{question}", end="", file=sys.stderr, flush=True)
        answer = ""
        # No more is read than the line: the rest is not ours.
        while (key := os.read(0, 1)) not in (b"\n", b""):
            answer += key.decode(errors="replace")
        if not key or answer.strip() == "c":
            stops = False
        return answer.strip() != "q"

    container = engine.start(prepared, step=ask)
    try:
        return container.stream(
            lambda name, data: _write(1 if name == "stdout" else 2, data), stdin=b""
        )
    finally:
        container.close()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def enter(engine: Engine, words: list[str]) -> int:
    """`ctrt exec`: the exit status of the command."""
    if "--help" in words[:1]:
        print(tables.EXEC.help())
        return 0
    options = _parsed(tables.EXEC, words)
    if len(options.operands) < 2:
        raise CtrtError("exec: expected CONTAINER COMMAND [ARG...]; see ctrt exec --help")
    name, *command = options.operands
    container = engine.find(name)
    prepared = engine.prepare_exec(
        container,
        command,
        options,
        terminal=options.tty and not options.plan,
        die=True,
    )
    if options.plan:
        return _show_plan(engine, prepared, options)
    for note in container.notes:
        print(f"ctrt: {note}", file=sys.stderr)
    return carry_out(prepared, keep_input=options.interactive, terminal=options.tty)


def unshare(engine: Engine, words: list[str]) -> int:
    """`ctrt unshare`: the exit status of the program."""
    if words[:1] in (["--help"], ["-h"]):
        print(tables.UNSHARE.help())
        return 0
    options = _parsed(tables.UNSHARE, words)
    prepared = engine.prepare_unshare(options)
    if options.plan:
        return _show_plan(engine, prepared, options)
    return carry_out(prepared, keep_input=True)


def _wait(started: executor.Started) -> int:
    """Wait for the end of a process while signals are handled; its wait(2) status.

    A signal that comes just before waitpid(2) blocks would be handled after it: so the wait is
    a poll of the pidfd and of a pipe that every signal writes to.
    """
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _signal.set_wakeup_fd(wake)
    poll = select.poll()
    poll.register(started.pidfd, select.POLLIN)
    poll.register(awake, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if awake in ready:
            os.read(awake, 512)
        if started.pidfd in ready:
            return os.waitpid(started.pid, 0)[1]


def carry_out(prepared: Prepared, *, keep_input: bool, terminal: bool = False) -> int:
    """Start a program on this process's standard streams and wait for its end.

    With `terminal` it has one of its own (its plan says so), joined to those streams.
    """
    plan = prepared.plan
    journal = None
    stdin = 0 if keep_input else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    ours = theirs = -1
    group = 0
    early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if not group:
            early.append(number)
            return
        try:
            os.kill(-group, number)
        except OSError:
            pass

    fds = {"stdin": stdin, "stdout": 1, "stderr": 2}
    if terminal:
        from ctrt.cli.runtime import foreground
        from ctrt.runtime import console

        awake = foreground.listen()
        ours, theirs = console.pair()
        fds["console"] = theirs
    else:
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
            _signal.signal(number, forward)
    try:
        if prepared.directory:
            journal = Journal.begin(prepared.directory, plan.undo(), prepared.state)
        started = executor.execute(plan.wire(), fds, journal)
        if journal:
            journal.note_pid(started.pid)
        prepared.release()
        if terminal:
            master = console.receive(ours)
            return foreground.attend(started, awake, master, keep_input=keep_input)
        group = started.pid
        for number in early:
            forward(number, None)
        status = _wait(started)
    except executor.StartError as error:
        raise failure.step_error(plan, error.step, error.call, error.errno, error.words) from None
    except FileExistsError:
        raise CtrtError(f"there is a container {prepared.name!r} already; see: ctrt ps") from None
    finally:
        if journal is not None:
            try:
                journal.end()
            except OSError as error:
                print(f"ctrt: {prepared.name} could not be cleaned up: {error}", file=sys.stderr)
    return failure.exit_status(status)
