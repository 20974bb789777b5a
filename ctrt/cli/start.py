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
    from ctrt.engine import Engine, Prepared


def run(engine: Engine, words: list[str]) -> int:
    """`ctrt run`: the exit status of the command."""
    if "--help" in words[:1]:
        print(tables.RUN.help())
        return 0
    options = tables.RUN.parse(words)
    if not options.operands:
        raise CtrtError("run: expected IMAGE [COMMAND [ARG...]]; see ctrt run --help")
    state.recover(engine.containers)
    image, *command = options.operands
    report = None
    if sys.stderr.isatty():
        from ctrt.cli.main import progress

        report = progress()
    prepared = engine.prepare(image, command, options, progress=report)
    if options.plan:
        print(engine.plan_text(prepared))
        return 0
    if options.detach:
        print(engine.detach(prepared))
        return 0
    return carry_out(prepared, keep_input=options.interactive)


def unshare(engine: Engine, words: list[str]) -> int:
    """`ctrt unshare`: the exit status of the program."""
    if "--help" in words[:1]:
        print(tables.UNSHARE.help())
        return 0
    options = tables.UNSHARE.parse(words)
    prepared = engine.prepare_unshare(options)
    if options.plan:
        print(engine.plan_text(prepared))
        return 0
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


def carry_out(prepared: Prepared, *, keep_input: bool) -> int:
    """Start a program on this process's standard streams and wait for its end."""
    plan = prepared.plan
    journal = None
    stdin = 0 if keep_input else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
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

    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, forward)
    try:
        if prepared.directory:
            journal = Journal.begin(prepared.directory, plan.undo(), prepared.state)
        fds = {"stdin": stdin, "stdout": 1, "stderr": 2}
        started = executor.execute(plan.wire(), fds, journal)
        if journal:
            journal.note_pid(started.pid)
        prepared.release()
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
