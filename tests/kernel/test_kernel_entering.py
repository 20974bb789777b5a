"""Cells in a container of another engine's: podman as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from kernel_tools import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "ctrt-cells-inside"
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
events_logger = "none"
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


@pytest.fixture(scope="module")
def others(podman: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of podman's, by the name that ctrt has for it."""
    busybox = shutil.which("busybox")
    if busybox is None or shutil.which("runc") is None:
        pytest.skip("needs busybox and runc")
    place: Path = tmp_path_factory.mktemp("entering")
    with tarfile.open(place / "box.tar", "w") as tar:
        tar.add(busybox, "bin/busybox")
        for name in ("sh", "cat", "hostname", "sleep", "id"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "tmp", "proc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    settings = place / "containers.conf"
    settings.write_text(_SETTINGS)

    def run(*words: str, check: bool = True) -> None:
        environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
        subprocess.run([*podman, *words], env=environment, check=check, capture_output=True)

    run("import", "-q", str(place / "box.tar"), "localhost/cells/box")
    options = ["--name", NAME, "--network", "none", "--hostname", "theirs", "-w", "/etc"]
    run("run", "-d", *options, "-e", "COLOR=red", "localhost/cells/box", "sleep", "600")
    yield f"podman:{NAME}"
    run("rm", "-f", "-t", "0", NAME, check=False)


def test_a_cell_runs_in_it(kernel: Kernel, others: str) -> None:
    cell = f"%%container --in {others}\nhostname; pwd; echo $COLOR; id -u; cat /proc/1/comm"
    first = kernel.good(cell)
    assert first.stream("stdout") == "theirs\n/etc\nred\n0\nsleep\n"
    note = f"the seccomp filter of {others} is not inherited"
    assert first.stream("stderr").count("\n") == first.stream("stderr").count(note) == 1
    assert kernel.good(cell).stream("stderr") == ""
    assert kernel.good(f"%ctrt exec -w /tmp {others} sh -c pwd").stream("stdout") == "/tmp\n"
    assert "setns(" in kernel.good(f"%ctrt exec --plan {others} true").result["text/plain"]


def test_files_and_scripts_go_in(kernel: Kernel, others: str) -> None:
    kernel.good("text = 'from Python'")
    cell = f"%%container --in {others} --put text=/tmp/text\n#!/bin/sh\ncat /tmp/text"
    assert kernel.good(cell).stream("stdout") == "from Python"


def test_its_name_is_offered_and_another_one_refused(kernel: Kernel, others: str) -> None:
    assert kernel.completions(f"%%container --in podman:{NAME[:-2]}") == [others]
    said = kernel.bad(f"%%container --in {others}x\ntrue")
    assert f"there is no running container {others}x" in said
    assert NAME in said
