"""A kernel inside a container, driven as any client drives a kernel."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE, Kernel, leftovers, wait_until

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images.hostimage import from_host

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON_IMAGE = "localhost/test/python"
_LINKED = (
    "libstdc++.so.6 libgcc_s.so.1 librt.so.1 libpthread.so.0 libdl.so.2 libutil.so.1 libm.so.6"
)


def _python_image(engine: Engine) -> None:
    """Debian's Python with its standard library, and no ipykernel."""
    library = f"/usr/lib/python3.{sys.version_info[1]}"
    if not Path(library).is_dir():
        pytest.skip(f"there is no {library}: the system's Python is another one than the tests'")
    extensions = Path(library, "lib-dynload")
    programs = ["/usr/bin/python3", "sh", "sleep", "ls"]
    from_host(
        engine.store,
        PYTHON_IMAGE,
        programs,
        files=[(library, library), *_libraries(extensions)],
    )


def _libraries(extensions: Path) -> list[tuple[str, str]]:
    """What the library's own extension modules and pyzmq's are linked with."""
    import subprocess

    found: set[str] = set()
    for module in extensions.glob("*.so"):
        listed = subprocess.run(["ldd", module], capture_output=True, text=True, check=False)
        found.update(w for w in listed.stdout.split() if w.startswith("/") and ".so" in w)
    for name in _LINKED.split():
        path = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/{name}"
        if os.path.exists(path):
            found.add(path)
    return [(os.path.realpath(path), path) for path in sorted(found)]


@pytest.fixture(scope="module")
def inside(store: Path) -> Iterator[Kernel]:
    engine = Engine()
    _python_image(engine)
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
