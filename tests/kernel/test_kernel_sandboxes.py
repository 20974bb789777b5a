"""Namespaces that are kept: `%%unshare --as` makes them, `--in` runs the next cells in them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from kernel_tools import Kernel, leftovers, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOUNTED = "mount -t tmpfs none /srv; mkdir /srv/a; mount -t tmpfs a /srv/a"


@pytest.fixture
def one(kernel: Kernel) -> Iterator[Kernel]:
    outcome = kernel.good(
        f"%%unshare --as one -Urm /bin/sh\n{MOUNTED}; mount --make-shared /srv/a; echo made"
    )
    assert outcome.stream("stdout") == "made\n"
    yield kernel
    for name in ("one", "two"):
        kernel.run(f"%ctrt rm --force {name}")


def test_the_next_cell_runs_in_it(one: Kernel) -> None:
    outcome = one.good("%%unshare --in one /bin/sh\ntest -d /srv/a && id -u; pwd; echo $0")
    uid, directory, shell = outcome.stream("stdout").split()
    assert (uid, directory, shell) == ("0", os.getcwd(), "/bin/sh")
    assert one.good("%unshare --in one -w /srv ls").stream("stdout") == "a\n"
    assert one.good("%%unshare --in one cat\nas input").stream("stdout") == "as input\n"
    assert one.good("%%container --in one\nls /srv").stream("stdout") == "a\n"
    assert one.good("%ctrt exec one ls /srv").stream("stdout") == "a\n"
    assert one.bad("%%unshare --in one /bin/sh\nexit 3") == (
        "ContainerError: /bin/sh in one ended with status 3"
    )
    half = "get_ipython().run_cell_magic('unshare', '--in one cat', chr(0xd800))"
    assert one.bad(half) == (
        "CtrtError: the cell: character 1 is half of a surrogate pair, which is no text"
    )
    one.good("%%unshare --in one --out got --graph /bin/sh\nls /srv")
    assert one.good("got").result["text/plain"] == r"'a\n'"


def test_it_is_listed_and_named(one: Kernel) -> None:
    listed = one.good("%ctrt ps").result["text/plain"].splitlines()
    assert next(line for line in listed if line.startswith("one ")).split()[1:-1] == [
        *"kept for cells, by unshare".split()
    ]
    assert one.good("%ctrt graph one").result["text/plain"].startswith("Sandbox one\n")
    assert "/bin/sh" in one.good("%ctrt top one").result["text/plain"]
    assert one.bad("%ctrt commit one localhost/x").endswith(
        "one is of no image: it has the files of this machine"
    )
    assert one.bad("%ctrt rm one").endswith("stop it first, or use: ctrt rm --force one")
    one.good("%ctrt stop one")
    assert "one" not in one.good("%ctrt ps").result.get("text/plain", "").split()
    assert one.bad("%%unshare --in one\ntrue").startswith(
        "CtrtError: there is no running container 'one'"
    )


def test_two_terminals_of_one_lesson(one: Kernel) -> None:
    one.good(
        "%%unshare --in one --as two -m --propagation unchanged /bin/sh\n"
        "mount --make-slave /srv/a; mkdir /srv/a/two; mount -t tmpfs two /srv/a/two"
    )
    one.good("%%unshare --in one /bin/sh\nmkdir /srv/a/one; mount -t tmpfs one /srv/a/one")
    mounts = "/bin/sh\ngrep -o '/srv/a/[a-z]*' /proc/self/mountinfo"
    assert one.good(f"%%unshare --in one {mounts}").stream("stdout") == "/srv/a/one\n"
    assert sorted(one.good(f"%%unshare --in two {mounts}").stream("stdout").split()) == [
        "/srv/a/one",
        "/srv/a/two",
    ]
    picture = one.good("%ctrt graph mounts --below /srv one two").result["text/plain"]
    assert picture.startswith("Mounts of one and of two\n")
    assert "master:" in picture
    # One that only this cell has: the next one is in the sandbox's again.
    kinds = "readlink /proc/self/ns/uts"
    apart = one.good(f"%%unshare --in two --uts /bin/sh\nhostname apart; hostname; {kinds}")
    name, space = apart.stream("stdout").split()
    assert name == "apart"
    assert one.good(f"%%unshare --in two /bin/sh\n{kinds}").stream("stdout").strip() != space


def test_process_numbers_of_its_own(kernel: Kernel) -> None:
    kernel.good("%%unshare --as pids -Urpf --mount-proc")
    seen = kernel.good("%%unshare --in pids /bin/sh\necho /proc/[0-9]*; cat /proc/1/comm")
    first, *_, last = seen.stream("stdout").split()
    assert (first, last) == ("/proc/1", "sh")
    kernel.good("%ctrt stop pids")


def test_the_same_cell_again_begins_anew(one: Kernel) -> None:
    one.good(f"%%unshare --as one -Urm /bin/sh\n{MOUNTED}; mkdir /srv/again")
    assert one.good("%%unshare --in one ls /srv\n").stream("stdout") == "a\nagain\n"
    one.good("%%unshare --as one -Urm --plan")
    one.bad("%%unshare --as one -Urp")
    assert one.good("%%unshare --in one ls /srv\n").stream("stdout") == "a\nagain\n"


def test_mistakes(one: Kernel) -> None:
    for cell, words in {
        "%%unshare --as x -Urp": "--as with --pid needs --fork",
        "%%unshare --as x -UrT": "--as with --time needs --fork",
        "%%unshare --as x -U": "--as with --user needs a map of users",
        "%%unshare --in one --as one -m": "--as one would take the place of what --in names",
        "%%unshare --in one -r\ntrue": "--map-root-user cannot go with --in: what goes with it is",
        "%%unshare --in one -pf\ntrue": "--pid cannot go with --in",
        "%%unshare --as ../x -Ur": "the name '../x' is not letters",
        "%unshare --in one": "a shell without input does nothing",
    }.items():
        assert words in one.bad(cell)
    assert "x" not in one.good("%ctrt ps").result["text/plain"].split()


def test_another_notebook_goes_in_and_it_ends_with_its_own(
    kernel: Kernel, fresh_kernel: Kernel, store: Path
) -> None:
    fresh_kernel.good(f"%%unshare --as theirs -Urm /bin/sh\n{MOUNTED}")
    assert kernel.good("%unshare --in theirs ls /srv").stream("stdout") == "a\n"
    assert "a container 'theirs' already" in kernel.bad("%%unshare --as theirs -Ur")
    os.kill(fresh_kernel.pid, signal.SIGKILL)
    assert wait_until(lambda: leftovers(store) == [])
    assert "theirs" not in kernel.good("%ctrt ps").result.get("text/plain", "").split()
