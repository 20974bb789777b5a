"""A kernel in an image of Debian that has a Python and an ipykernel of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import Kernel, debugged, leftovers, wait_until

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBIAN = "localhost/test/debian-python"


@pytest.fixture(scope="module")
def inside(store: Path, debian_python: Path) -> Iterator[Kernel]:
    engine = Engine()
    VERBS["import"](engine, [str(debian_python), DEBIAN])
    VERBS["kernel"](engine, ["install", "--image", DEBIAN, "--name", "debian"])
    engine.close()
    kernel = Kernel("debian")
    yield kernel
    kernel.stop()
    assert wait_until(lambda: leftovers(store) == [])


def test_it_is_the_image_s_own(inside: Kernel) -> None:
    outcome = inside.good(
        "import ipykernel, os, socket, sys\n"
        "print(sys.executable, ipykernel.__file__, os.getpid(), os.getuid(), os.getcwd())\n"
        "print(sorted(name for _, name in socket.if_nameindex()))"
    )
    assert outcome.stream("stdout") == (
        "/usr/bin/python3 /usr/lib/python3/dist-packages/ipykernel/__init__.py 2 0 "
        f"{os.getcwd()}\n['lo']\n"
    )
    path = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", "debian", "kernel.json")
    specification = json.loads(path.read_text())
    assert "--packages" not in specification["argv"]
    assert specification["metadata"] == {"debugger": True}


def test_programs_and_questions(inside: Kernel) -> None:
    assert "etc" in inside.good("!ls /").stream("stdout")
    outcome, _ = inside.asked("print(input('Name? ') + '!')", "Ada")
    assert outcome.stream("stdout") == "Ada!\n"


def test_an_interrupt_and_a_restart(inside: Kernel) -> None:
    sent = inside.send("import time; print('go', flush=True); time.sleep(600)")
    outcome = inside.outcome(
        sent, watch=lambda m: inside.interrupt() if m.content.get("text") else None
    )
    assert outcome.reply["ename"] == "KeyboardInterrupt"
    inside.good("x = 1")
    inside.manager.restart_kernel()
    inside.client.wait_for_ready(timeout=60)
    assert inside.run("x").reply["ename"] == "NameError"


def test_the_debugger_stops_at_a_breakpoint(inside: Kernel) -> None:
    assert debugged(inside) == (2, "2\n")
