"""The stop button: once to ask the program, twice to kill it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from ctrt_kernel.cells import GRACE_SECONDS, Interrupts
from kernel_tools import IMAGE, Kernel, Message, leftovers, wait_until


class Clicker:
    """Interrupts the kernel a moment after a word appears in the output.

    The moment is for the shell, which may lose a signal between a word and the next program.
    """

    def __init__(self, kernel: Kernel, *words: str) -> None:
        self.kernel = kernel
        self.words = list(words)
        self.clicked: list[float] = []

    def __call__(self, message: Message) -> None:
        text = message.content.get("text", "")
        while self.words and self.words[0] in text:
            self.words.pop(0)
            time.sleep(0.3)
            self.clicked.append(time.monotonic())
            self.kernel.interrupt()


def test_the_first_interrupt_reaches_the_program(kernel: Kernel, store: Path) -> None:
    click = Clicker(kernel, "ready")
    outcome = kernel.run(
        f"%%container {IMAGE}\n"
        "trap 'echo caught; exit 0' INT\necho ready\nwhile :; do sleep 0.1; done",
        watch=click,
    )
    assert outcome.stream("stdout") == "ready\ncaught\n"
    assert outcome.error == (
        "KeyboardInterrupt: /bin/sh in localhost/test/shell:latest was interrupted"
    )
    assert leftovers(store) == []


def test_the_second_interrupt_kills_a_stubborn_program(kernel: Kernel, store: Path) -> None:
    click = Clicker(kernel, "ready", "still here")
    outcome = kernel.run(
        f"%%container {IMAGE}\ntrap 'echo still here' INT\necho ready\nwhile :; do sleep 0.1; done",
        watch=click,
    )
    assert outcome.stream("stdout") == "ready\nstill here\n"
    assert outcome.error.startswith("KeyboardInterrupt: ")
    assert leftovers(store) == []


def test_one_interrupt_ends_a_program_without_a_handler(kernel: Kernel, store: Path) -> None:
    """The kernel drops SIGINT for process 1, so nothing would happen."""
    click = Clicker(kernel, "ready")
    outcome = kernel.run(f"%%container {IMAGE}\necho ready\nexec sleep 600", watch=click)
    assert time.monotonic() - click.clicked[0] < 10
    assert outcome.error.startswith("KeyboardInterrupt: ")
    assert leftovers(store) == []


def test_a_program_that_ignores_interrupts_survives_the_first(kernel: Kernel) -> None:
    click = Clicker(kernel, "ready")
    outcome = kernel.run(
        f"%%container {IMAGE}\ntrap '' INT\necho ready\nsleep 2\necho to the end", watch=click
    )
    assert outcome.stream("stdout") == "ready\nto the end\n"
    assert outcome.error.startswith("KeyboardInterrupt: ")


def test_unshare_is_interrupted_like_any_program(kernel: Kernel) -> None:
    click = Clicker(kernel, "ready")
    outcome = kernel.run("%%unshare -Ur sh\necho ready\nsleep 600", watch=click)
    assert outcome.error == "KeyboardInterrupt: sh in new namespaces was interrupted"


def test_the_kernel_lives_on(kernel: Kernel) -> None:
    click = Clicker(kernel, "ready")
    kernel.run(f"%%container {IMAGE}\necho ready; sleep 600", watch=click)
    assert kernel.good(f"%%container {IMAGE}\necho again").stream("stdout") == "again\n"
    sent = kernel.send("import time; print('go', flush=True); time.sleep(600)")
    assert kernel.outcome(sent, watch=Clicker(kernel, "go")).reply["ename"] == "KeyboardInterrupt"


def test_an_orderly_end_takes_running_containers_along(fresh_kernel: Kernel, store: Path) -> None:
    fresh_kernel.send(f"%%container {IMAGE}\necho ready; sleep 600; echo left-behind")
    assert wait_until(lambda: (store / "containers").exists() and leftovers(store))
    start = time.monotonic()
    # The manager kills a kernel that does not end by itself, usually after five seconds.
    fresh_kernel.manager.shutdown_wait_time = 60
    fresh_kernel.stop()
    assert time.monotonic() - start < 30
    assert leftovers(store) == []


def test_interrupts_while_a_cell_ends_lose_no_reply(kernel: Kernel, store: Path) -> None:
    for _ in range(5):
        clicked = 0

        def click(message: Message) -> None:
            nonlocal clicked
            if message.kind == "error" or (message.kind == "stream" and not clicked):
                clicked += 1
                for _ in range(20):
                    kernel.interrupt()
                    time.sleep(0.0005)

        outcome = kernel.run(
            f"%%container {IMAGE}\nwhile :; do echo left-behind flood; done", watch=click
        )
        assert outcome.error.startswith("KeyboardInterrupt")
        assert outcome.reply["ename"] == "KeyboardInterrupt"
    assert kernel.good("1 + 1").result["text/plain"] == "2"
    assert leftovers(store) == []


def test_a_press_just_after_the_end_is_not_passed_on() -> None:
    passed = []
    before = signal.signal(signal.SIGINT, lambda *_: passed.append(True))
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.detach()
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.count, passed) == (1, [])
        time.sleep(GRACE_SECONDS + 0.1)
        os.kill(os.getpid(), signal.SIGINT)
        assert passed == [True]
        with Interrupts():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert passed == [True, True]  # nothing was interrupted, so there is nothing to wait for
    finally:
        signal.signal(signal.SIGINT, before)


def test_presses_between_the_end_of_the_program_and_that_of_its_cell_add_nothing() -> None:
    with Interrupts() as interrupts:
        interrupts.detach()
        try:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # it would end all tests
            pytest.fail("a press was raised in the middle of the cell's end")
        assert interrupts.count == 3


def test_without_a_program_the_second_press_is_an_interrupt() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_cell_shows_its_error_once(kernel: Kernel) -> None:
    outcome = kernel.run("raise KeyboardInterrupt")
    assert [m.kind for m in outcome.messages].count("error") == 1


@pytest.mark.parametrize("first", ["", "import asyncio; await asyncio.sleep(0)\n"])
def test_an_error_that_a_press_kept_from_being_shown_is_shown(kernel: Kernel, first: str) -> None:
    """Also after a cell that had an error of its own."""
    kernel.run("1 / 0")
    outcome = kernel.run(
        f"{first}def pressed(): raise KeyboardInterrupt\n"
        "error = KeyboardInterrupt('stopped')\n"
        "error._render_traceback_ = pressed\n"
        "raise error"
    )
    assert outcome.error == "KeyboardInterrupt: stopped"
    assert outcome.reply["traceback"] == ["KeyboardInterrupt: stopped"]
