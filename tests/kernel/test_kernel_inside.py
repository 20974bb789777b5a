"""A kernel inside a container, driven as any client drives a kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from inside_images import PYTHON_IMAGE, missing, python_image
from kernel_tools import IMAGE, Kernel, debugged, leftovers, wait_until

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def inside(store: Path) -> Iterator[Kernel]:
    if missing():
        pytest.skip(missing())
    engine = Engine()
    python_image(engine)
    words = ["install", "--image", PYTHON_IMAGE, "--name", "inside"]
    said = VERBS["kernel"](engine, [*words, "--python", "/usr/bin/python3"])
    assert str(said) == f"the kernel inside runs in {PYTHON_IMAGE}"
    engine.close()
    kernel = Kernel("inside")
    yield kernel
    kernel.stop()
    assert wait_until(lambda: leftovers(store) == [])


def test_it_is_in_a_container(inside: Kernel) -> None:
    outcome = inside.good(
        "import os, socket\nprint(os.getpid(), os.getuid(), socket.gethostname())\n"
        "print(sorted(name for _, name in socket.if_nameindex()))"
    )
    assert outcome.stream("stdout") == "1 0 python\n['lo']\n"


def test_programs_questions_and_output(inside: Kernel) -> None:
    assert "bin" in inside.good("!ls /").stream("stdout")
    outcome, questions = inside.asked("print(input('Name? ') + '!')", "Ada")
    assert outcome.stream("stdout") == "Ada!\n"
    assert questions[0]["prompt"] == "Name? "
    assert len(inside.good("print('x' * 5_000_000)").stream("stdout")) == 5_000_001


def test_an_interrupt(inside: Kernel) -> None:
    sent = inside.send("import time; print('go', flush=True); time.sleep(600)")
    outcome = inside.outcome(
        sent, watch=lambda m: inside.interrupt() if m.content.get("text") else None
    )
    assert outcome.reply["ename"] == "KeyboardInterrupt"


def test_the_notebook_s_folder_is_there(inside: Kernel) -> None:
    assert inside.good("import os; print(os.getcwd())").stream("stdout").strip() == os.getcwd()


def test_the_debugger_stops_at_a_breakpoint(inside: Kernel) -> None:
    assert debugged(inside) == (2, "2\n")


def test_a_restart(inside: Kernel) -> None:
    inside.good("x = 1")
    inside.manager.restart_kernel()
    inside.client.wait_for_ready(timeout=60)
    assert inside.run("x").reply["ename"] == "NameError"


def test_an_image_without_a_python(store: Path) -> None:
    engine = Engine()
    with pytest.raises(CtrtError, match="has no Python that starts"):
        VERBS["kernel"](engine, ["install", "--image", IMAGE])
    with pytest.raises(CtrtError, match="name an image"):
        VERBS["kernel"](engine, ["install"])
    engine.close()


def test_the_specification(inside: Kernel) -> None:
    path = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", "inside", "kernel.json")
    specification = json.loads(path.read_text())
    assert specification["display_name"].endswith(f"({PYTHON_IMAGE})")
    assert "--packages" in specification["argv"]
    assert specification["metadata"]["debugger"] is True
