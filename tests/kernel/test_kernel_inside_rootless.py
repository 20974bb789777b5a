"""A kernel in an image for ordinary users, with nothing but jupyter_client around it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from inside_images import PYTHON_IMAGE, START, missing

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root makes the users")

# Runs as the user: drives the kernel, and prints what came of it.
DRIVE = (
    f"import json, time\n{START}"
    """
printed = []
def run(code, answer=None, watch=lambda text: None):
    text = []
    def output(message):
        content = message["content"]
        text.append(content.get("text") or content.get("ename") or "")
        watch(content.get("text"))
    client.execute_interactive(
        code, timeout=100, output_hook=output, allow_stdin=answer is not None,
        stdin_hook=lambda message: client.input(answer),
    )
    printed.append("".join(text))
try:
    run("import os, sys, ipykernel; print(os.getpid(), os.getuid(), sys.executable)")
    run("import socket; print([name for _, name in socket.if_nameindex()])")
    run("print(os.path.exists('notebook-is-here'))")
    run("!ls -d /etc")
    run("print(input() + '!')", "Ada")
    run("import time; print('go', end='', flush=True); time.sleep(600)",
        watch=lambda text: manager.interrupt_kernel() if "go" in (text or "") else None)
    manager.restart_kernel()
    client.wait_for_ready(timeout=100)
    run("ipykernel")
finally:
    client.stop_channels()
    manager.shutdown_kernel()
print(json.dumps(printed))
"""
)


def _drive(world: World, image: str) -> list[str]:
    python = str(world.bin / "python")
    installed = world.ctrt("kernel", "install", "--image", image, "--name", "inside")
    assert installed.returncode == 0, installed.stderr
    world.run("touch", "notebook-is-here")
    driven = world.run(python, "-c", DRIVE, timeout=200)
    assert driven.returncode == 0, driven.stderr
    assert world.ctrt("ps").stdout.splitlines()[1:] == []
    return list(json.loads(driven.stdout.splitlines()[-1]))


EXPECTED = [
    "2 0 /usr/bin/python3\n",
    "['lo']\n",
    "True\n",
    "/etc\n",
    "Ada!\n",
    "goKeyboardInterrupt",
    "NameError",
]


def test_the_image_s_own_ipykernel(subordinate_world: World, debian_python: Path) -> None:
    name = "localhost/test/debian-python"
    with open(debian_python, "rb") as archive:  # the cache is root's
        copied = subordinate_world.home / "debian.tar"
        copied.write_bytes(archive.read())
    copied.chmod(0o644)
    imported = subordinate_world.run(
        str(subordinate_world.bin / "ctrt"), "import", str(copied), name, timeout=200
    )
    copied.unlink()
    assert imported.returncode == 0, imported.stderr
    printed = _drive(subordinate_world, name)
    assert [text.replace("\r\n", "\n") for text in printed] == EXPECTED


def test_an_injected_one(single_world: World) -> None:
    if missing():
        pytest.skip(missing())
    source = Path(__file__).with_name("inside_images.py").read_text()
    made = single_world.run(
        str(single_world.bin / "python"),
        "-c",
        f"{source}\nfrom ctrt.engine import Engine\npython_image(Engine())",
    )
    assert made.returncode == 0, made.stderr
    printed = _drive(single_world, PYTHON_IMAGE)
    assert [text.replace("\r\n", "\n") for text in printed] == EXPECTED
