"""`%ctrt cp`: files into a running container and out of it, and never past its root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "copied"


@pytest.fixture(scope="module")
def running(kernel: Kernel) -> Iterator[Kernel]:
    """A kernel with a container in the background that does what it is told by files."""
    kernel.good(
        f"%%container --bg=job --name {NAME} {IMAGE}\n"
        "mkdir -p /srv/in/deep; echo inside > /srv/in/deep/file; echo x > /srv/in/x\n"
        "ln -s /etc/hostname /srv/escape; ln -s / /srv/root; ln -s ../../../../.. /srv/up\n"
        "echo ready; while :; do sleep 0.1; test -e /go && cat /go && ls -ln /go && exit; done"
    )
    kernel.good("import time\nwhile 'ready' not in job.text(): time.sleep(0.05)")
    yield kernel
    kernel.good("job.stop(0)")


def test_out_of_it(running: Kernel, tmp_path: Path) -> None:
    copied = running.good(f"%ctrt cp {NAME}:/srv/in {tmp_path}/new")
    assert copied.result["text/plain"] == "2 files copied"
    assert (tmp_path / "new/deep/file").read_text() == "inside\n"
    running.good(f"%ctrt cp {NAME}:/srv/in {tmp_path}/new")
    assert (tmp_path / "new/in/x").read_text() == "x\n"
    running.good(f"%ctrt cp {NAME}:/srv/in/x {tmp_path}")
    assert (tmp_path / "x").read_text() == "x\n"


def test_a_link_inside_leads_nowhere_outside(running: Kernel, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    for way in ("root", "up"):
        error = running.bad(f"%ctrt cp {NAME}:/srv/{way}{tmp_path}/secret {tmp_path}/stolen")
        assert "No such file or directory" in error
    running.good(f"%ctrt cp {tmp_path}/secret {NAME}:/srv/root/arrived")
    assert not os.path.lexists("/arrived")
    running.good(f"%ctrt cp {NAME}:/arrived {tmp_path}/back")
    assert (tmp_path / "back").read_text() == "host"
    # A link is copied as a link, and one that is in the way is replaced, not followed.
    running.good(f"%ctrt cp {NAME}:/srv/escape {tmp_path}/escape")
    assert os.readlink(tmp_path / "escape") == "/etc/hostname"
    running.good(f"%ctrt cp {NAME}:/srv/in/x {tmp_path}/escape")
    assert (tmp_path / "escape").read_text() == "x\n"
    assert not (tmp_path / "escape").is_symlink()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (f"{NAME}:srv /tmp", "cp: 'copied:srv' is not CONTAINER:/PATH; the path must be absolute"),
        ("/a /b", "cp: one of the two is CONTAINER:/PATH, and the other a path of the host"),
        (f"{NAME}:/nothing /tmp", f"cp: {NAME}:/nothing: No such file or directory"),
        ("other:/a /tmp", "there is no running container 'other'; these run: copied"),
        (f"/etc/hostname {NAME}:/no/where/", f"cp: {NAME}:/no/where/: No such file or directory"),
        (f"{NAME}:/dev/null /tmp", "cp: null is neither a file, a directory nor a link"),
        (f"{NAME}:/ /tmp", f"cp: {NAME}:/ is all of its files; name a path below it"),
    ],
)
def test_mistakes(running: Kernel, words: str, error: str) -> None:
    assert running.bad(f"%ctrt cp {words}").startswith(f"CtrtError: {error}")


def test_into_it(running: Kernel, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("gone\n")
    (tmp_path / "go").chmod(0o4755)
    running.good(f"%ctrt cp {tmp_path}/go {NAME}:/go")
    running.good("job.wait(20)")
    *_, content, listed = running.good("print(job.text())").stream("stdout").split("\n")[:-2]
    assert content == "gone"
    # It is the container's root that owns it.
    assert listed.split()[:4] == ["-rwxr-xr-x", "1", "0", "0"]
