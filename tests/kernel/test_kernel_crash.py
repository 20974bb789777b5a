"""A kernel that is killed leaves nothing that the next command does not clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from kernel_tools import IMAGE, Kernel, Message, leftovers, wait_until


def test_a_killed_kernel_leaves_nothing(fresh_kernel: Kernel, store: Path) -> None:
    pid = fresh_kernel.pid
    killed: list[list[str]] = []

    def kill(message: Message) -> None:
        if "ready" in message.content.get("text", ""):
            killed.append(leftovers(store))
            os.kill(pid, signal.SIGKILL)

    sent = fresh_kernel.send(f"%%container {IMAGE}\necho ready; sleep 600; echo left-behind")
    try:
        fresh_kernel.outcome(sent, watch=kill)
    except AssertionError as error:
        assert "the kernel died" in str(error)  # noqa: PT017
    (before,) = killed
    assert len(before) >= 2  # the directory and the process
    ps = subprocess.run(
        [sys.executable, "-m", "ctrt.cli.main", "ps"], capture_output=True, text=True, check=True
    )
    assert ps.stdout.splitlines()[1:] == [] or IMAGE not in ps.stdout
    assert wait_until(lambda: leftovers(store) == []), leftovers(store)


def test_a_killed_launcher_is_replaced(kernel: Kernel, store: Path) -> None:
    kernel.good(f"%%container {IMAGE}\ntrue")
    kernel.good(
        "import os, signal\nfrom ctrt.engine import default_engine\n"
        "os.kill(default_engine().launcher._pid, signal.SIGKILL)\n"
        "os.waitpid(default_engine().launcher._pid, 0)"
    )
    assert kernel.good(f"%%container {IMAGE}\necho back").stream("stdout") == "back\n"
    assert leftovers(store) == []
