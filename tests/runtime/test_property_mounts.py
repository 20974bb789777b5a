"""Every option of mounts: taken, and where the kernel shows it, seen."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime

NAME = f"property-mounts-{os.getpid()}"
SLEEP = ("sleep", "1000")
# Options that bind a tree, change owners or need a mount that is there already.
APART = {"bind", "rbind", "idmap", "ridmap", "remount"}


def shown(text: str) -> dict[str, tuple[set[str], set[str], str]]:
    """A mountinfo file: options of the mount and of the file system, and its type, by place."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        fstype, _, rest = after.split(" ", 2)
        found[words[4]] = (set(words[5].split(",")), set(rest.split(",")), fstype)
    return found


def mounted(
    runtime: Runtime, *entries: dict[str, Any]
) -> dict[str, tuple[set[str], set[str], str]]:
    """The mounts of a container, which are the same from outside and from inside."""
    runtime.config(*SLEEP, change=lambda config: config["mounts"].extend(entries))
    runtime.quiet("run", "--detach", NAME)
    outside = shown(Path(f"/proc/{runtime.pid(NAME)}/mountinfo").read_text())
    inside = shown(runtime.call("exec", NAME, "cat", "/proc/1/mountinfo").stdout)
    assert inside == outside
    runtime.call("delete", "--force", NAME)
    return outside


def test_every_option_that_features_names_is_taken(both: Runtime) -> None:
    options = json.loads(both.call("features").stdout)["mountOptions"]
    entries = [
        {
            "destination": f"/dev/options/{option}",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": [option],
        }
        for option in options
        if option not in APART
    ]
    found = mounted(both, *entries)
    assert len(entries) > 50
    assert all(found[entry["destination"]][2] == "tmpfs" for entry in entries)


def test_options_of_the_file_system(runtime: Runtime) -> None:
    names = {"sync": "sync", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": ""}
    entries = [
        {"destination": f"/dev/options/{name}", "type": "tmpfs", "source": "x", "options": [name]}
        for name in names
    ]
    found = mounted(runtime, *entries)
    for name, word in names.items():
        own = found[f"/dev/options/{name}"][1]
        assert (word in own) if word else ("lazytime" not in own)


@pytest.fixture
def strict(runtime: Runtime) -> Iterator[Path]:
    """A tree of two mounts of the host's that allow as little as possible."""
    top = runtime.home / "strict"
    top.mkdir()
    options = "nosuid,nodev,noexec,noatime,nosymfollow"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "strict", top], check=True)
    try:
        (top / "below").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "strict", top / "below"], check=True)
        for path in (top, top / "below"):
            subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield top
    finally:
        subprocess.run(["umount", "-R", top], check=True)


TAKEN_BACK = {
    "rrw": "ro",
    "rsuid": "nosuid",
    "rdev": "nodev",
    "rexec": "noexec",
    "rsymfollow": "nosymfollow",
    "ratime": "noatime",
    "rstrictatime": "noatime",
    "rrelatime": "noatime",
}


def test_recursive_options_are_taken_back_below_too(runtime: Runtime, strict: Path) -> None:
    entries = [
        {
            "destination": f"/dev/options/{option}",
            "type": "bind",
            "source": str(strict),
            "options": ["rbind", option],
        }
        for option in TAKEN_BACK
    ]
    found = mounted(runtime, *entries)
    for option, word in TAKEN_BACK.items():
        for place in (f"/dev/options/{option}", f"/dev/options/{option}/below"):
            assert word not in found[place][0], place
            others = {"ro", "nosuid", "nodev", "noexec", "nosymfollow"} - {word}
            assert others <= found[place][0], place
    host = shown(Path("/proc/self/mountinfo").read_text())
    for path in (strict, strict / "below"):
        assert set(TAKEN_BACK.values()) <= host[str(path)][0], "the host's are as they were"


ADDED = {"rnodiratime": "nodiratime", "rrelatime": "relatime", "rro": "ro"}


def test_recursive_options_are_added_below_too(runtime: Runtime, strict: Path) -> None:
    for path in (strict, strict / "below"):
        subprocess.run(["mount", "-o", "remount,bind,rw,atime", path], check=True)
    entries = [
        {
            "destination": f"/dev/options/{option}",
            "type": "bind",
            "source": str(strict),
            "options": ["rbind", option],
        }
        for option in ADDED
    ]
    found = mounted(runtime, *entries)
    for option, word in ADDED.items():
        for place in (f"/dev/options/{option}", f"/dev/options/{option}/below"):
            assert word in found[place][0], place


def test_a_bind_mount_is_mounted_anew_with_other_options(runtime: Runtime, strict: Path) -> None:
    """As mount(8) has it: what is bound keeps nothing that `remount` does not name."""
    entry = {"destination": "/dev/options", "type": "none", "source": str(strict)}
    found = mounted(runtime, {**entry, "options": ["bind", "remount", "nodev", "ro"]})
    assert {"ro", "nodev"} <= found["/dev/options"][0]


@pytest.mark.parametrize("fstype", ["proc", "sysfs", "devpts", "mqueue", "tmpfs", "ramfs"])
def test_file_systems_of_the_kernel(runtime: Runtime, fstype: str) -> None:
    entry = {"destination": "/dev/another", "type": fstype, "source": fstype}
    assert mounted(runtime, entry)["/dev/another"][2] == fstype
