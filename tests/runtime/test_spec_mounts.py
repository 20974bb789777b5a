"""Mounts, devices and id maps as runc and crun treat what the specification leaves open."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, in_user_namespace, root_files

FULL = [{"containerID": 0, "hostID": 0, "size": 1 << 16}]


def mounted(*mounts: dict[str, Any], mapped: list[dict[str, int]] | None = None) -> Any:
    """A change of the configuration: more mounts, and with `mapped` a user namespace."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += mounts
        if mapped is not None:
            in_user_namespace(config, mapped)

    return change


def bound(source: Path, *options: str) -> dict[str, Any]:
    return {"destination": "/mnt/x", "source": str(source), "options": [*options]}


@pytest.fixture
def own(runtime: Runtime, tmp_path: Path) -> Runtime:
    """Root's runtime with a root file system that this test may change."""
    runtime.rootfs = root_files(tmp_path / "rootfs")
    return runtime


def vfs_options(runtime: Runtime, target: str) -> list[str]:
    """The mount options that the container saw, from the mountinfo that it showed."""
    fields = [line.split(" ") for line in runtime.stdout.splitlines()]
    (found,) = [entry for entry in fields if entry[4] == target]
    return found[5].split(",")


def test_a_symbolic_link_is_copied_when_asked_for(own: Runtime, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("../where/it/leads")
    own.config("sh", "-c", "readlink /mnt/x", change=mounted(bound(link, "bind", "copy-symlink")))
    own.quiet("run", "one")
    assert own.stdout == "../where/it/leads\n"
    own.quiet("run", "again")
    assert own.stdout == "../where/it/leads\n"


@pytest.mark.parametrize("space", ["new", "mapped", "none"])
@pytest.mark.parametrize("follow", [True, False])
def test_links_at_both_ends_of_a_mount_are_not_followed_when_asked_for(
    runtime: Runtime, tmp_path: Path, follow: bool, space: str
) -> None:
    """As podman's no-dereference has it: what is mounted, and what it covers, may be a link."""
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:3]:
        above.chmod(0o755)
    (tmp_path / "file").write_text("text\n")
    link = tmp_path / "link"
    link.symlink_to("file")

    def change(config: dict[str, Any]) -> None:
        options = ["bind", "ro", "dest-nofollow", *([] if follow else ["src-nofollow"])]
        entry: dict[str, Any] = {
            "destination": "/tmp/deep/x",
            "source": str(link),
            "options": options,
        }
        config["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/tmp/deep", "source": str(tmp_path / "below"), "options": ["rbind"]},
            entry,
        ]
        if space == "none":
            return
        config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 1}]
            if space == "mapped":
                entry[name] = [{"containerID": 0, "hostID": 0, "size": 1}]

    (tmp_path / "below").mkdir()
    (tmp_path / "below/x").symlink_to("nowhere")
    runtime.config("sh", "-c", "readlink /tmp/deep/x; cat /tmp/deep/x; ls /tmp/deep", change=change)
    done = runtime.call("run", "one", check=False)
    if follow:
        assert done.stdout == "text\nx\n"
    else:
        assert done.stdout == "file\nx\n", "and not the one that it covers"
    assert (tmp_path / "below/x").readlink() == Path("nowhere")


def test_a_link_in_the_place_of_a_mount_is_never_one_of_proc(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        options = ["bind", "dest-nofollow", "src-nofollow"]
        entry = {"destination": "/proc/self", "source": "/etc/hostname", "options": options}
        config["mounts"].append(entry)

    runtime.config("true", change=change)
    done = runtime.call("run", "one", check=False)
    assert (done.returncode, "is inside /proc" in done.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_link_is_bound_all_the_same(own: Runtime, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "file":
        source.write_text("text\n")
    else:
        source.mkdir()
    change = mounted(bound(source, "bind", "copy-symlink", "ro"))
    own.config("sh", "-c", "cat /proc/self/mountinfo; touch /mnt/x /mnt/x/y", change=change)
    own.quiet("run", "one", check=False)
    assert "ro" in vfs_options(own, "/mnt/x")
    assert "Read-only file system" in own.stderr


def test_data_of_a_bind_mount_has_no_effect(both: Runtime) -> None:
    (both.home / "source").mkdir(mode=0o755)
    (both.home / "source/file").write_text("text\n")
    change = mounted(
        {
            "destination": "/tmp",
            "type": "bind",
            "source": str(both.home / "source"),
            "options": ["bind", "nosuid", "mode=777", "size=1k"],
        }
    )
    both.config("sh", "-c", "cat /tmp/file; stat -c %a /tmp", change=change)
    both.quiet("run", "one")
    assert both.stdout == "text\n755\n"
    both.quiet("--log", str(both.home / "log"), "create", "two")
    assert "'size' has no effect on a bind mount" in (both.home / "log").read_text()


@pytest.mark.parametrize("option", ["strictatime", "noatime"])
def test_access_times_of_a_bind_mount_in_a_user_namespace(
    own: Runtime, tmp_path: Path, option: str
) -> None:
    (tmp_path / "source").mkdir()
    tmp_path.chmod(0o755)
    change = mounted(bound(tmp_path / "source", "rbind", option), mapped=FULL)
    own.config("cat", "/proc/self/mountinfo", change=change)
    own.quiet("run", "one")
    found = vfs_options(own, "/mnt/x")
    assert "relatime" not in found
    assert ("noatime" in found) == (option == "noatime")


@pytest.mark.parametrize("option", ["idmap", "strictatime"])
def test_mounts_made_in_the_container_do_not_reach_the_host(
    own: Runtime, tmp_path: Path, option: str
) -> None:
    """Though the source is shared, and was opened among the host's own mounts."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        (shared / "below").mkdir(mode=0o777)

        def change(config: dict[str, Any]) -> None:
            mounted(bound(shared, "rbind", option), mapped=FULL)(config)
            sets = config["process"]["capabilities"]
            for name in ("bounding", "effective", "permitted"):
                sets[name] = [*sets[name], "CAP_SYS_ADMIN"]

        own.config(
            "sh", "-c", "mount -t tmpfs none /mnt/x/below && touch /mnt/x/below/here; sleep 1000",
            change=change,
        )  # fmt: skip
        own.quiet("run", "--detach", "one")
        inside = Path(f"/proc/{own.pid('one')}/root/mnt/x/below")
        for _ in range(1000):
            if (inside / "here").exists():
                break
            subprocess.run(["sleep", "0.01"], check=True)
        assert (inside / "here").exists(), own.stderr
        assert not (shared / "below/here").exists()
        with open("/proc/self/mountinfo") as file:
            assert f"{shared}/below" not in file.read()
    finally:
        own.call("delete", "--force", "one")
        subprocess.run(["umount", shared], check=True)


def test_devices_of_a_user_namespace_have_their_owner_and_mode(own: Runtime) -> None:
    """Also one that the host has nowhere in its /dev."""

    def change(config: dict[str, Any]) -> None:
        mounted(mapped=[{"containerID": 0, "hostID": 100000, "size": 1000}])(config)
        config["linux"]["devices"] = [
            {"path": "/dev/own-zero", "type": "c", "major": 1, "minor": 5}
            | {"fileMode": 0o640, "uid": 10, "gid": 11},
            {"path": "/dev/deep/full", "type": "c", "major": 1, "minor": 7},
            {"path": "/dev/pipe", "type": "p", "uid": 10},
        ]

    for path in (own.rootfs, *own.rootfs.rglob("*")):
        os.lchown(path, 100000, 100000)
    own.rootfs.parent.chmod(0o755)
    program = "stat -c '%n %a %u:%g %t:%T' /dev/own-zero /dev/deep/full; "
    program += "head -c 4 /dev/own-zero | od"
    own.config("sh", "-c", program, change=change)
    own.quiet("create", "one")
    node = os.stat(f"/proc/{own.pid('one')}/root/dev/own-zero")
    assert stat.S_ISCHR(node.st_mode)
    assert (node.st_uid, node.st_gid, node.st_rdev) == (100010, 100011, os.makedev(1, 5))
    own.quiet("run", "two")
    first, second, *zeroes = own.stdout.splitlines()
    assert first == "/dev/own-zero 640 10:11 1:5"
    assert second == "/dev/deep/full 666 0:0 1:7"
    assert zeroes[0].split()[1:] == ["000000", "000000"]


def test_a_user_namespace_without_maps_has_its_caller_as_root(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        entries = config["linux"]["namespaces"]
        if {"type": "user"} not in entries:
            entries.append({"type": "user"})
        config["linux"].pop("uidMappings", None)
        config["linux"].pop("gidMappings", None)

    both.config("sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map", change=change)
    both.quiet("run", "one")
    uid, gid = both.user or (0, 0)
    assert both.stdout.split() == ["0", "0", str(uid), "1", "0", str(gid), "1"]
    maps = {"uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}]}

    def half(config: dict[str, Any]) -> None:
        change(config)
        config["linux"] |= maps

    both.config("true", change=half)
    refused = both.call("run", "two", check=False)
    assert refused.returncode == 1
    assert "linux.gidMappings is missing" in refused.stderr


def test_an_ordinary_user_gets_the_user_namespace_that_is_missing(rootless: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].remove({"type": "user"})
        del config["linux"]["uidMappings"], config["linux"]["gidMappings"]

    rootless.config("sleep", "1000", change=change)
    rootless.quiet("--log", str(rootless.home / "log"), "run", "--detach", "one")
    assert "it gets one" in (rootless.home / "log").read_text()
    user = os.readlink(f"/proc/{rootless.pid('one')}/ns/user")
    assert user != os.readlink("/proc/self/ns/user")
    entered = rootless.call("exec", "one", "sh", "-c", "id -u; readlink /proc/self/ns/user")
    assert entered.stdout.split() == ["0", user]


def test_mounts_are_listed_in_the_order_of_the_configuration(both: Runtime, tmp_path: Path) -> None:
    """config.md, Mounts; newer kernels list them as they were made, not as they were attached."""
    places = ["/tmp/a", "/tmp/b", "/tmp/c", "/tmp/d", "/tmp/d/e"]
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    bind = {"source": "/usr/share", "options": ["rbind", "ro"]}
    entries = [tmpfs, bind, tmpfs, tmpfs, bind]
    mounts = [{"destination": p, **entry} for p, entry in zip(places, entries, strict=True)]
    both.config("cat", "/proc/self/mountinfo", change=mounted(*mounts))
    both.quiet("run", "one")
    listed = [line.split(" ")[4] for line in both.stdout.splitlines()]
    first = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"]
    wanted = [*first, *places]
    assert [path for path in dict.fromkeys(listed) if path in wanted] == wanted
