"""The test machines: one for each way to boot, shared by all tests, with ctrt installed in them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vm_image import OTHER_USER, USER, image
from vm_machine import FLAVOURS, Machine

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("CTRT_CACHE", Path.home() / ".cache" / "ctrt-tests"))
PARTS = "ctrt", "jeepney", "msgspec", "urllib3"
LIST_FILES = """
import sys, importlib.metadata
for part in sys.argv[1:]:
    for file in importlib.metadata.files(part):
        print(file.locate().resolve())
"""


def fixture_name(flavour: str) -> str:
    return "vm" if flavour == "plain" else f"{flavour}_vm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.timeout(900))  # the first one makes the image, and boots


@pytest.fixture(scope="session")
def project(user_bin: Path) -> bytes:
    """An archive of the installed package with what it needs, to be unpacked in an environment."""
    found = subprocess.run(
        [user_bin / "python", "-c", LIST_FILES, *PARTS], check=True, capture_output=True, text=True
    )
    environment = user_bin.parent.resolve()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name in found.stdout.splitlines():
            path = Path(name)
            if path.exists() and "share" not in path.relative_to(environment).parts:
                archive.add(path, str(path.relative_to(environment)))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def store(user_bin: Path) -> bytes:
    """An archive of a store of ctrt with one image: busybox, as localhost/test/box."""
    with tempfile.TemporaryDirectory() as root:
        words = ["--root", root, "image", "from-host", "--name", "localhost/test/box", "busybox"]
        subprocess.run([user_bin / "ctrt", *words], check=True, capture_output=True)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            archive.add(root, ".")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest) -> Iterator[dict[str, Machine]]:
    """The machines that the tests of this run ask for; they boot at the same time."""
    made = image(CACHE)
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    running: dict[str, Machine] = {}
    try:
        for flavour in FLAVOURS:
            if fixture_name(flavour) in wanted:
                running[flavour] = Machine(flavour, made)
        yield running
    finally:
        for machine in running.values():
            machine.stop()


def _fixture(flavour: str) -> Callable[..., Machine]:
    @pytest.fixture(scope="session", name=fixture_name(flavour))
    def machine(machines: dict[str, Machine], project: bytes, store: bytes) -> Machine:
        found = machines[flavour]
        found.check("tar", "-C", "/opt/ctrt", "-xz", stdin=project)
        for user in (None, USER, OTHER_USER):
            home = "/var/lib/ctrt" if user is None else f"/home/{user}/.local/share/ctrt"
            found.check(f"mkdir -p {home} && tar -C {home} -xz", stdin=store)
            if user is not None:
                found.check(f"chown -R {user}: /home/{user}")
        return found

    return machine


plain_vm = _fixture("plain")
systemd_vm = _fixture("systemd")
selinux_vm = _fixture("selinux")
