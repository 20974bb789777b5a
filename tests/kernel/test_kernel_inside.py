"""A kernel inside a container, driven as any client drives a kernel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ctrt_kernel.inside import PORTS
from inside_images import PYTHON_IMAGE, START, missing, python_image
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
    assert outcome.stream("stdout") == "2 0 python\n['lo']\n"


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


def test_the_first_process_waits_for_what_others_leave(inside: Kernel) -> None:
    inside.good("import os; os.system('sleep 0.05 & sleep 0.05 &')")
    count = "print(len([name for name in os.listdir('/proc') if name.isdigit()]))"
    assert wait_until(lambda: inside.good(count).stream("stdout") == "2\n")


def test_nothing_of_it_is_on_the_host_s_disk(inside: Kernel) -> None:
    mounts = inside.good("print(open('/proc/self/mountinfo').read())").stream("stdout")
    (line,) = [line for line in mounts.splitlines() if " /run/ctrt-kernel " in line]
    assert " - tmpfs " in line


def test_what_kills_it_leaves_nothing(inside: Kernel, store: Path) -> None:
    before = leftovers(store)
    kernel = Kernel("inside")
    kernel.good("1")
    os.kill(kernel.pid, signal.SIGKILL)
    assert wait_until(lambda: leftovers(store) == before)
    kernel.client.stop_channels()
    kernel.manager.cleanup_resources()


CLIENT = f"""{START}
import os
os._exit(0)
"""


def test_it_ends_with_a_client_that_dies(inside: Kernel, store: Path) -> None:
    before = leftovers(store)
    subprocess.run([sys.executable, "-c", CLIENT], check=True, timeout=100)
    assert wait_until(lambda: leftovers(store) == before)


def test_an_image_with_a_user_and_an_entry_point(inside: Kernel, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(
        f'FROM {PYTHON_IMAGE}\nUSER 1000:1000\nENTRYPOINT ["/usr/bin/python3"]\n'
    )
    engine = Engine()
    VERBS["build"](engine, ["-t", "localhost/test/user", str(tmp_path)])
    VERBS["kernel"](engine, ["install", "--image", "localhost/test/user", "--name", "user"])
    engine.close()
    kernel = Kernel("user")
    try:
        printed = kernel.good("import os; print(os.getuid())").stream("stdout")
        assert printed == ("1000\n" if os.geteuid() == 0 else "0\n")
    finally:
        kernel.stop()


def test_what_cannot_start_says_why_in_one_line(inside: Kernel, tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    ports = dict.fromkeys(PORTS, taken.getsockname()[1])
    connection = {"transport": "tcp", "ip": "127.0.0.1", **ports}
    for text, why in (
        (json.dumps(connection), "address already in use"),
        ("{", "Expecting property name"),
        (None, "No such file or directory"),
    ):
        path = tmp_path / "connection.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        words = ["-f", str(path), "--image", PYTHON_IMAGE, "--python", "/usr/bin/python3"]
        done = subprocess.run(
            [sys.executable, "-m", "ctrt_kernel.inside", *words],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 125
        assert done.stderr.startswith(f"ctrt: the kernel of {path} cannot start: ")
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    taken.close()


def test_a_name_is_no_path(store: Path) -> None:
    engine = Engine()
    for name in ("..", ".", ".hidden", "../x", "Big", "a b"):
        with pytest.raises(CtrtError, match="is not lower-case letters"):
            VERBS["kernel"](engine, ["install", "--image", IMAGE, "--name", name])
    engine.close()


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
