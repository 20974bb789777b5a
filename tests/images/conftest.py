"""Stores, images that other tools made, and what looks at a tree of files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from ctrt.engine import Engine
from ctrt.images.store import Store

CACHE = Path(os.environ.get("CTRT_CACHE", Path.home() / ".cache" / "ctrt-tests"))
_SHELL = (
    "sh cat ls id chmod chown ln mkdir rm rmdir mv cp touch stat sleep env test head wc"
    " hostname true false grep find mkfifo sha256sum readlink busybox"
)

LIST = r"""
import hashlib, json, os, stat, sys
root = os.fsencode(sys.argv[1])
found, links = {}, {}
for place, dirs, files in os.walk(root):
    for name in [b"."] + dirs + files if place == root else dirs + files:
        path = os.path.join(place, name)
        looks = os.lstat(path)
        kind = stat.S_IFMT(looks.st_mode)
        shown = os.fsdecode(os.path.relpath(path, root))
        content = None
        if stat.S_ISREG(looks.st_mode):
            content = hashlib.sha256(open(path, "rb").read()).hexdigest()
        elif stat.S_ISLNK(looks.st_mode):
            content = os.fsdecode(os.readlink(path))
        elif stat.S_ISCHR(looks.st_mode) or stat.S_ISBLK(looks.st_mode):
            content = looks.st_rdev
        xattrs = {}
        for key in os.listxattr(path, follow_symlinks=False):
            if ".overlay." not in key:
                xattrs[key] = os.getxattr(path, key, follow_symlinks=False).hex()
        if not stat.S_ISDIR(looks.st_mode) and looks.st_nlink > 1:
            links.setdefault(looks.st_ino, []).append(shown)
        found[shown] = [oct(looks.st_mode), looks.st_uid, looks.st_gid, looks.st_mtime_ns,
                        xattrs, content]
groups = sorted(sorted(names) for names in links.values() if len(names) > 1)
print(json.dumps({"entries": found, "links": groups}))
"""


def run(*command: str, check: bool = True, **keywords: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def listing(path: str) -> dict[str, Any]:
    """Every entry of a tree: type and mode, owner, mtime, attributes, content; and hard links."""
    found: dict[str, Any] = json.loads(run("/usr/bin/python3", "-I", "-c", LIST, path))
    return found


def merged(lowers: list[str], prefix: tuple[str, ...] = (), options: str = "") -> dict[str, Any]:
    """The same of an image's layers as overlayfs shows them together."""
    # The directory must be one that the layers' user can mount on.
    place = os.path.join(lowers[0], "..", "merged")
    script = (
        f"mkdir -p {place}; mount -t overlay overlay -o {options}lowerdir={':'.join(lowers)}"
        f" {place} && exec /usr/bin/python3 -I -c '{LIST}' {place}"
    )
    if len(lowers) == 1:  # overlayfs wants two
        script = f"exec /usr/bin/python3 -I -c '{LIST}' {lowers[0]}"
    words = [*prefix, *([] if prefix else ["unshare", "-m"]), "/bin/sh", "-c", script]
    found: dict[str, Any] = json.loads(run(*words))
    return found


def needs(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"needs {program}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine with localhost/base, an image of this machine's shell and a few tools."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    from ctrt.images.hostimage import from_host

    made = Engine(str(tmp_path_factory.mktemp("engine") / "root"))
    from_host(made.store, "localhost/base", _SHELL.split())
    yield made
    assert made.states() == []
    made.destroy()


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian root file system as a plain tar, made by debootstrap once and kept."""
    needs("debootstrap")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / "debian.tar"
    with open(CACHE / "debian.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            sites = run(
                "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"
            ).split("\n")
            codename = run("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").strip()
            site = next(line.split()[0] for line in sites if line.endswith(f" {codename}"))
            tree = CACHE / "debian.tree"
            shutil.rmtree(tree, ignore_errors=True)
            run("debootstrap", "--variant=minbase", codename, str(tree), site)
            run("sh", "-c", f"rm -rf {tree}/var/cache/apt/archives/*.deb {tree}/etc/apt/sources*")
            run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name",
                "--format=pax", "-cf", f"{made}.new", "-C", str(tree), ".")  # fmt: skip
            os.rename(f"{made}.new", made)
            shutil.rmtree(tree)
    return made
