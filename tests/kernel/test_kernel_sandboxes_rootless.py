"""Namespaces that are kept for later cells, by ordinary users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root makes the users")

# Runs as the user, in IPython without a kernel; stops at the first cell that fails.
CELLS = r"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in (
    "%load_ext ctrt",
    "%%unshare --as one -Urm /bin/sh\nmount -t tmpfs none /srv; mkdir /srv/a\n"
    "mount -t tmpfs a /srv/a; mount --make-shared /srv/a; id -u",
    "%%unshare --in one --as two -m --propagation unchanged /bin/sh\n"
    "mkdir /srv/a/b; mount -t tmpfs b /srv/a/b",
    "%%unshare --in one /bin/sh\ngrep -o /srv/a/b /proc/mounts",
    "%%unshare --as three -Urpf --mount-proc\n",
    "%unshare --in three ls -d /proc/1",
    "print(*(row[0] for row in get_ipython().run_line_magic('ctrt', 'ps').rows))",
    "%ctrt stop one two three",
):
    result = shell.run_cell(cell)
    result.raise_error()
"""


@pytest.mark.parametrize("name", ["subordinate_world", "single_world"])
def test_the_two_terminals(name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    done = world.run(str(world.bin / "python"), "-c", CELLS)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if line]
    assert shown[:4] == ["0", "/srv/a/b", "/proc/1", "one three two"]
    assert world.ctrt("ps").stdout.splitlines()[1:] == []
