"""Unpacking as a real ordinary user, with one id and with subordinate ids.

The user runs the system's own Python: the store, find and unpack need nothing but its library.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from images_tools import image, member, tar

from ctrt.images.store import Store

PYTHON = "/usr/bin/python3"
USER = "ctrttest"
PACKAGES = str(Path(__file__).resolve().parents[2])
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason="needs the system's Python"),
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs uidmap"),
]
SPAWN = {
    "single": ["unshare", "-r"],
    "subordinate": ["unshare", "--map-auto", "-r"],
}
SCRIPT = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ctrt.errors import CtrtError
from ctrt.images import layers
from ctrt.images.store import Store
verb, root, name, world, prefix = sys.argv[2:]
store = Store(root)
spawn = lambda argv: subprocess.run(json.loads(prefix) + argv).returncode
how = layers.Unpacker(world, spawn)
try:
    if verb == "unpack":
        paths = layers.unpack(store, store.find(name), how)
        answer = {"paths": paths, "notes": layers.notes(store, store.find(name), how)}
    elif verb == "remove":
        answer = {"removed": store.remove(name, spawn=spawn)}
    elif verb == "remove without":
        answer = {"removed": store.remove(name)}
    elif verb == "clean":
        answer = {"clean": store.clean(spawn)}
except CtrtError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""
CAPABILITY = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
BASE = tar(
    member("etc", kind="dir"),
    member("etc/passwd", b"base"),
    member("etc/shadow", b"base", mode=0),
    member("var/old", b"base"),
    member("home/u", kind="dir", owner=(1000, 1000), mode=0o700),
    member("home/u/file", b"u", owner=(1000, 1000)),
    member("locked", kind="dir", mode=0, owner=(1000, 1000)),
    member("locked/x", owner=(1000, 1000)),
    member("dev/null", kind="char", device=(1, 3), mode=0o666),
    member(
        "ping",
        b"#",
        mode=0o4755,
        pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")},
    ),
)
TOP = tar(
    member("etc/.wh.passwd"),
    member("var/.wh..wh..opq"),
    member("var/new", b"top"),
    member("link", kind="link", link="home/u/file"),
)


class Home:
    """The ordinary user's store, and what they can run on it."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)
        self.user = pwd.getpwnam(USER)

    def own(self) -> None:
        subprocess.run(["chown", "-R", f"{USER}:{self.user.pw_gid}", self.store.root], check=True)

    def run(self, verb: str, world: str, name: str = "localhost/test") -> dict[str, Any]:
        command = [
            "runuser", "-u", USER, "--", PYTHON, "-I", "-S", "-c", SCRIPT, PACKAGES,
            verb, self.store.root, name, world, json.dumps(SPAWN[world]),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def merged(self, world: str, paths: list[str], command: str) -> str:
        """Mount the layers as a rootless container would and look at them from there."""
        script = (
            f"mount -t overlay overlay -o userxattr,lowerdir={':'.join(paths)}"
            f" {self.store.root}/mnt && cd {self.store.root}/mnt && {command}"
        )
        os.makedirs(f"{self.store.root}/mnt", exist_ok=True)
        return subprocess.run(
            ["runuser", "-u", USER, "--", *SPAWN[world], "-m", "sh", "-c", script],
            capture_output=True, text=True, check=True, cwd="/",
        ).stdout  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
    for table in ("/etc/subuid", "/etc/subgid"):
        if f"{USER}:" not in Path(table).read_text():
            with open(table, "a") as file:
                file.write(f"{USER}:100000:65536\n")
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_mode & 0o001 == 0:
            place.chmod(place.stat().st_mode | 0o011)
    made = Home(str(tmp_path / "store"))
    image(made.store, BASE, TOP)
    made.own()
    return made


def owners(path: str, home: Home) -> dict[str, tuple[int, int]]:
    found = {}
    for place, dirs, files in os.walk(path):
        for name in dirs + files:
            looks = os.lstat(os.path.join(place, name))
            found[os.path.relpath(os.path.join(place, name), path)] = (looks.st_uid, looks.st_gid)
    return found


def test_with_subordinate_ids(home: Home) -> None:
    answer = home.run("unpack", "subordinate")
    top, base = answer["paths"]
    assert base.endswith(".user/diff")
    me = home.user.pw_uid
    found = owners(base, home)
    assert found["etc/passwd"][0] == me
    assert found["home/u/file"] == (100999, 100999), "1000 is the 1000th after the user's own"
    assert stat.S_IMODE(os.stat(f"{base}/home/u").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{base}/ping").st_mode) == 0o4755
    capability = os.getxattr(f"{base}/ping", "security.capability")
    assert capability[3] == 3, "a capability of that user namespace only"
    assert int.from_bytes(capability[20:24], "little") == me
    assert os.getxattr(f"{top}/var", "user.overlay.opaque") == b"y"
    assert answer["notes"] == [
        '"dev/null" is a device, which only root can make; an empty file stands in for it'
    ]
    assert owners(top, home)["link"] == (100999, 100999)
    assert home.merged("subordinate", answer["paths"], "ls etc var; cat link; id -u").split() == [
        "etc:", "shadow", "var:", "new", "u0",
    ]  # fmt: skip


def test_with_a_single_id(home: Home) -> None:
    answer = home.run("unpack", "single")
    top, base = answer["paths"]
    assert base.endswith(".single/diff")
    assert {owner[0] for path in (top, base) for owner in owners(path, home).values()} == {
        home.user.pw_uid
    }
    assert stat.S_IMODE(os.stat(f"{base}/ping").st_mode) == 0o4755
    assert home.merged("single", answer["paths"], "ls etc var; cat link; ls locked").split() == [
        "etc:", "shadow", "var:", "new", "ux",
    ]  # fmt: skip


@pytest.mark.parametrize("world", ["subordinate", "single"])
def test_removing_needs_the_user_namespace(home: Home, world: str) -> None:
    home.run("unpack", world)
    store = home.store
    answer = home.run("remove without", world)
    assert len(answer["removed"]) == 4
    assert os.listdir(store.path("layers")) == []
    if world == "subordinate":
        assert len(os.listdir(store.path("tmp"))) == 1, "waits for a call that can"
    else:
        assert os.listdir(store.path("tmp")) == []
    home.run("clean", world)
    assert os.listdir(store.path("tmp")) == []


def test_removing_at_once(home: Home) -> None:
    home.run("unpack", "subordinate")
    home.run("remove", "subordinate")
    for place in ("layers", "tmp", "blobs/sha256"):
        assert os.listdir(home.store.path(place)) == []


def test_an_owner_beyond_the_map_is_a_sentence(home: Home) -> None:
    made = image(
        home.store, tar(member("d/x"), member("big", owner=(70000, 0))), name="localhost/big"
    )
    home.own()
    answer = home.run("unpack", "subordinate", "localhost/big")
    assert answer == {
        "error": f"cannot unpack localhost/big:latest: layer {made.layers[0].digest[7:19]}:"
        ' "big" belongs to user 70000, group 0, which your subordinate ids do not reach; ask for'
        " more in /etc/subuid and /etc/subgid"
    }
    assert os.listdir(home.store.path("layers")) == []
    assert os.listdir(home.store.path("tmp")) == []
    assert home.run("unpack", "single", "localhost/big")["notes"] == []
