"""Mounts of a configuration, as the kernel lists them for the container and for the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import Runtime, in_user_namespace

SLEEP = ("sleep", "1000")
NAME = f"config-{os.getpid()}"


class Mount(NamedTuple):
    point: str
    options: list[str]
    fields: list[str]
    fstype: str
    super_options: list[str]


def mounts(text: str) -> dict[str, Mount]:
    """A mountinfo file by mount points; of several at one point the last."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words, (fstype, _, rest) = before.split(), after.split(" ", 2)
        found[words[4]] = Mount(words[4], words[5].split(","), words[6:], fstype, rest.split(","))
    return found


def seen(runtime: Runtime, change: Any) -> dict[str, Mount]:
    """The mounts of a container, read from outside."""
    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    found = mounts(Path(f"/proc/{runtime.pid(NAME)}/mountinfo").read_text())
    runtime.call("delete", "--force", NAME)
    return found


def mounting(*entries: dict[str, Any], **linux: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["mounts"] += entries
        config["linux"].update(linux)

    return change


def say(runtime: Runtime, script: str, change: Any) -> str:
    runtime.config("sh", "-c", script, change=change)
    return runtime.call("run", NAME).stdout


@pytest.fixture
def source(runtime: Runtime) -> Iterator[Path]:
    """A tree of two mounts of the host's, the upper one shared."""
    top = runtime.home / "source"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "source", top], check=True)
    try:
        (top / "below").mkdir()
        (top / "file").write_text("of the host\n")
        subprocess.run(["mount", "-t", "tmpfs", "below", top / "below"], check=True)
        for path in (top / "below", top):
            subprocess.run(["mount", "--make-private", path], check=True)
        yield top
    finally:
        subprocess.run(["umount", "-R", top], check=True)


# --- options ------------------------------------------------------------------------------------

OPTIONS = {
    "ro": "ro",
    "nosuid": "nosuid",
    "nodev": "nodev",
    "noexec": "noexec",
    "noatime": "noatime",
    "nodiratime": "nodiratime",
    "nosymfollow": "nosymfollow",
    "relatime": "relatime",
}


@pytest.mark.parametrize("fstype", ["tmpfs", "bind", "rbind"])
def test_options_of_one_mount(runtime: Runtime, source: Path, fstype: str) -> None:
    entries = []
    for option in OPTIONS:
        if fstype == "tmpfs":
            entry = {"type": "tmpfs", "source": "tmpfs", "options": [option]}
        else:
            entry = {"type": "none", "source": str(source), "options": [fstype, option]}
        entries.append({"destination": f"/m/{option}", **entry})
    found = seen(runtime, mounting(*entries))
    for option, shown in OPTIONS.items():
        assert shown in found[f"/m/{option}"].options
        if fstype == "rbind" and option != "relatime":
            assert shown not in found[f"/m/{option}/below"].options, "for the mount itself alone"
    assert "strictatime" not in found["/m/ro"].options


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime"])
def test_recursive_options_reach_the_mounts_below(
    runtime: Runtime, source: Path, option: str
) -> None:
    entry = {
        "destination": "/m",
        "type": "bind",
        "source": str(source),
        "options": ["rbind", f"r{option}"],
    }
    found = seen(runtime, mounting(entry))
    assert option in found["/m"].options
    assert option in found["/m/below"].options
    host = mounts(Path("/proc/self/mountinfo").read_text())
    assert option not in host[str(source)].options


def test_an_option_is_taken_back_by_its_opposite(runtime: Runtime, source: Path) -> None:
    subprocess.run(["mount", "-o", "remount,bind,noexec,ro", source], check=True)
    entry = {
        "destination": "/m",
        "type": "bind",
        "source": str(source),
        "options": ["bind", "exec", "nosuid", "suid"],
    }
    found = seen(runtime, mounting(entry))
    # What nothing is said of stays as it was on the host.
    assert "ro" in found["/m"].options
    assert not {"noexec", "nosuid"} & set(found["/m"].options)


def test_data_goes_to_the_file_system_and_its_refusal_comes_back(runtime: Runtime) -> None:
    entry = {
        "destination": "/m",
        "type": "tmpfs",
        "source": "mine",
        "options": ["size=64k", "mode=1770", "nr_inodes=20", "lazytime"],
    }
    found = seen(runtime, mounting(entry))["/m"]
    assert {"size=64k", "mode=1770", "nr_inodes=20", "lazytime"} <= set(found.super_options)
    entry["options"] = ["bogus=1"]
    runtime.config("true", change=mounting(entry))
    done = runtime.call("run", NAME, check=False)
    assert "bogus" in done.stderr
    assert '"mount /m"' in done.stderr


def test_targets_are_made_inside_the_root(both: Runtime) -> None:
    (both.rootfs / "tmp" / "link").symlink_to("/tmp/../../../../tmp/aim")
    os.lchown(both.rootfs / "tmp" / "link", *(both.user or (0, 0)))
    try:
        found = seen(
            both,
            mounting(
                {"destination": "/deep/er/est", "type": "tmpfs", "source": "tmpfs"},
                {
                    "destination": "/deep/file",
                    "type": "bind",
                    "source": "/etc/hostname",
                    "options": ["bind"],
                },
                {"destination": "/tmp/link", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "relative", "type": "tmpfs", "source": "tmpfs"},
            ),
        )
        assert {"/deep/er/est", "/deep/file", "/tmp/aim", "/relative"} <= set(found)
        assert not os.path.exists("/tmp/aim")
    finally:
        subprocess.run(["rm", "-rf", both.rootfs / "deep", both.rootfs / "relative"], check=True)
        subprocess.run(
            ["rm", "-rf", *(both.rootfs / "tmp" / n for n in ("link", "aim"))], check=True
        )


def test_a_bind_mount_of_nothing_names_it(runtime: Runtime) -> None:
    entry = {"destination": "/m", "type": "bind", "source": "/no/where", "options": ["bind"]}
    runtime.config("true", change=mounting(entry))
    done = runtime.call("run", NAME, check=False)
    assert done.returncode == 1
    assert "/no/where: No such file or directory" in done.stderr


def test_a_tmpfs_takes_the_mode_and_the_content_of_what_it_hides(runtime: Runtime) -> None:
    top = runtime.rootfs / "copied"
    (top / "inner").mkdir(parents=True)
    top.chmod(0o1751)
    try:
        (top / "inner" / "file").write_text("content\n")
        (top / "inner" / "file").chmod(0o640)
        os.chown(top / "inner" / "file", 5, 6)
        (top / "link").symlink_to("inner/file")
        entry = {"destination": "/copied", "type": "tmpfs", "source": "tmpfs"}
        script = "stat -c '%a %u:%g %n' /copied /copied/* /copied/inner/*; cat /copied/link"
        assert say(runtime, "stat -c %a /copied; ls /copied", mounting(entry)) == "1751\n"
        said = say(runtime, script, mounting({**entry, "options": ["tmpcopyup", "ro"]}))
        assert said.splitlines() == [
            *("1751 0:0 /copied", "755 0:0 /copied/inner", "777 0:0 /copied/link"),
            *("640 5:6 /copied/inner/file", "content"),
        ]
        said = say(
            runtime,
            "touch /copied/x 2>/dev/null; stat -c %a /copied",
            mounting({**entry, "options": ["ro", "mode=700"]}),
        )
        assert said == "700\n"
    finally:
        subprocess.run(["rm", "-rf", top], check=True)


# --- propagation ----------------------------------------------------------------------------------

# What runc makes of each: (options of the mount, rootfsPropagation) -> optional fields, where
# HOST is the group of the host's mount and NEW another one.
PROPAGATION = {
    ((), "rprivate"): [],
    ((), "slave"): ["shared:HOST"],
    ((), "shared"): ["shared:HOST"],
    (("shared",), "rprivate"): ["shared:NEW"],
    (("rshared",), "rprivate"): ["shared:NEW"],
    (("shared",), "slave"): ["shared:HOST"],
    (("rshared",), "shared"): ["shared:HOST"],
    (("slave",), "rprivate"): [],
    (("rslave",), "slave"): ["master:HOST"],
    (("slave",), "shared"): ["master:HOST"],
    (("slave", "shared"), "rprivate"): ["shared:NEW"],
    (("slave", "shared"), "shared"): ["shared:NEW", "master:HOST"],
    (("rslave", "rshared"), "slave"): ["shared:NEW", "master:HOST"],
    (("shared", "slave"), "shared"): ["master:HOST"],
    (("private",), "shared"): [],
    (("rprivate",), "slave"): [],
    (("unbindable",), "shared"): ["unbindable"],
    (("runbindable",), "rprivate"): ["unbindable"],
    ((), None): ["master:HOST"],
    ((), "rslave"): ["master:HOST"],
}


@pytest.mark.parametrize("root", [None, "rprivate", "slave", "rslave", "shared"])
def test_propagation_of_mounts(runtime: Runtime, source: Path, root: str | None) -> None:
    subprocess.run(["mount", "--make-shared", source], check=True)
    group = mounts(Path("/proc/self/mountinfo").read_text())[str(source)].fields[0].split(":")[1]
    cases = {"+".join(case[0]) or "plain": case for case in PROPAGATION if case[1] == root}
    entries = [
        {
            "destination": f"/m/{name}",
            "type": "bind",
            "source": str(source),
            "options": ["rbind", *case[0]],
        }
        for name, case in cases.items()
    ]
    linux = {"rootfsPropagation": root} if root else {}
    found = seen(runtime, mounting(*entries, **linux))
    named = {}
    for name in cases:
        fields = [field.partition(":") for field in found[f"/m/{name}"].fields]
        named[name] = [
            f"{key}:{'HOST' if number == group else 'NEW'}" if number else key
            for key, _, number in fields
            if key != "propagate_from"
        ]
    assert named == {name: PROPAGATION[case] for name, case in cases.items()}


def test_propagation_reaches_the_mounts_below_if_it_is_recursive(
    runtime: Runtime, source: Path
) -> None:
    """Each kind and its recursive form, on a tree whose mounts are all shared."""
    for path in (source, source / "below"):
        subprocess.run(["mount", "--make-shared", path], check=True)
    after = {"private": [], "slave": ["master"], "shared": ["shared"], "unbindable": ["unbindable"]}
    words = [prefix + kind for kind in after for prefix in ("", "r")]
    entries = [
        {
            "destination": f"/m/{word}",
            "type": "bind",
            "source": str(source),
            "options": ["rbind", word],
        }
        for word in words
    ]
    found = seen(runtime, mounting(*entries, rootfsPropagation="shared"))

    def kinds(point: str) -> list[str]:
        return [field.partition(":")[0] for field in found[point].fields]

    for word in words:
        kind = after[word.removeprefix("r")]
        assert kinds(f"/m/{word}") == kind, word
        assert kinds(f"/m/{word}/below") == (kind if word[0] == "r" else ["shared"]), word


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("private", []),
        ("rprivate", []),
        ("slave", []),
        ("shared", ["shared"]),
        ("rshared", ["shared"]),
        ("unbindable", ["unbindable"]),
        ("runbindable", ["unbindable"]),
    ],
)
def test_propagation_of_the_root(runtime: Runtime, word: str, fields: list[str]) -> None:
    found = seen(runtime, mounting(rootfsPropagation=word))
    assert [field.partition(":")[0] for field in found["/"].fields] == fields
    # A proc that is mounted below stays where it was mounted: nothing reached the host.
    host = Path("/proc/self/mountinfo").read_text()
    assert str(runtime.rootfs) not in host
    assert str(runtime.bundle) not in host


def test_a_mount_of_the_host_comes_into_a_slave_and_none_goes_out(
    runtime: Runtime, source: Path
) -> None:
    subprocess.run(["mount", "--make-shared", source], check=True)
    entry = {
        "destination": "/m",
        "type": "bind",
        "source": str(source),
        "options": ["rbind", "rslave"],
    }
    runtime.config(*SLEEP, change=mounting(entry))
    runtime.quiet("run", "--detach", NAME)
    (source / "later").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "later", source / "later"], check=True)
    inside = mounts(Path(f"/proc/{runtime.pid(NAME)}/mountinfo").read_text())
    assert inside["/m/later"].fstype == "tmpfs"


# --- idmapped -------------------------------------------------------------------------------------


def test_id_mapped_mounts_show_other_owners(runtime: Runtime, source: Path) -> None:
    os.chown(source / "file", 5, 6)
    (source / "below" / "file").write_text("")
    os.chown(source / "below" / "file", 5, 6)

    def maps(first: int) -> list[dict[str, int]]:
        return [{"containerID": 0, "hostID": first, "size": 1000}]

    entry = {"destination": "/m", "type": "bind", "source": str(source)}
    cases = (
        (["rbind", "idmap"], "10005:20006 5:6"),
        (["rbind", "ridmap"], "10005:20006 10005:20006"),
        (["rbind"], "10005:20006 5:6"),
    )
    for options, expected in cases:
        mapped = {**entry, "options": options, "uidMappings": maps(10000)}
        mapped["gidMappings"] = maps(20000)
        script = "stat -c %u:%g /m/file /m/below/file"
        assert say(runtime, script, mounting(mapped)).split() == expected.split()


@pytest.mark.parametrize("root", ["rslave", "rprivate", "shared"])
def test_a_mount_below_an_id_mapped_one_does_not_reach_the_host(
    runtime: Runtime, source: Path, root: str
) -> None:
    """It is opened from the caller's own mounts, and is no peer of theirs all the same."""
    subprocess.run(["mount", "--make-shared", source], check=True)
    maps = [{"containerID": 0, "hostID": 10000, "size": 1000}]
    entry = {
        "destination": "/m",
        "type": "bind",
        "source": str(source),
        "options": ["rbind"],
        "uidMappings": maps,
        "gidMappings": maps,
    }

    def change(config: dict[str, Any]) -> None:
        mounting(entry, rootfsPropagation=root)(config)
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name].append("CAP_SYS_ADMIN")

    script = "mkdir -p /m/below && mount -t tmpfs inside /m/below && grep -c inside /proc/mounts"
    script += "; grep ' /m ' /proc/self/mountinfo | grep -o 'shared\\|master'"
    assert say(runtime, script, change).split() == ["1", "master"]
    assert " inside " not in Path("/proc/self/mountinfo").read_text()


def test_id_mapped_mounts_take_the_container_s_own_maps(
    runtime: Runtime, source: Path, place: Path
) -> None:
    os.chown(source / "file", 5, 6)

    def change(config: dict[str, Any]) -> None:
        in_user_namespace(config)
        config["mounts"].append(
            {
                "destination": "/tmp",
                "type": "bind",
                "source": str(source),
                "options": ["bind", "idmap"],
            }
        )

    script = "stat -c %u:%g /tmp/file; echo new > /tmp/new && stat -c %u:%g /tmp/new"
    assert say(runtime, script, change).split() == ["5:6", "0:0"]
    assert os.stat(source / "new").st_uid == 0, "on disk it is root's"


@pytest.mark.parametrize("mapped", [[], ["idmap"]])
def test_in_a_user_namespace_sources_lie_in_earlier_mounts(
    runtime: Runtime, source: Path, mapped: list[str]
) -> None:
    """Who starts the container opens them, but with the mounts that the container has by then."""
    source.chmod(0o700)  # the container's own ids cannot go there
    (source / "below" / "file").write_text("")
    os.chown(source / "below" / "file", 5, 6)

    def change(config: dict[str, Any]) -> None:
        in_user_namespace(config)
        first = {"destination": "/tmp", "source": str(source), "options": ["rbind"]}
        place = f"{config['root']['path']}/tmp/below"
        again = {"destination": "/dev/shm", "source": place, "options": ["rbind", *mapped]}
        config["mounts"] += [first, again]

    owner = "5:6" if mapped else "65534:65534"
    assert say(runtime, "stat -c %u:%g /dev/shm/file", change).strip() == owner


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("idmap=uids=0-524288-10;gids=0-524289-10", "5:7"),
        ("ridmap=uids=0-524288-3#5-524300-1;gids=0-524288-10", "12:6"),
        ("idmap=uids=@5-100-1;gids=@0-200-10", "100:206"),
    ],
)
def test_id_maps_may_be_in_the_option(
    runtime: Runtime, source: Path, option: str, expected: str
) -> None:
    """As podman has it: ids on disk, ids of the host or with @ of the container, how many."""
    os.chown(source / "file", 5, 6)

    def change(config: dict[str, Any]) -> None:
        in_user_namespace(config)
        entry = {"destination": "/tmp", "type": "bind", "source": str(source)}
        config["mounts"].append({**entry, "options": ["bind", option]})

    assert say(runtime, "stat -c %u:%g /tmp/file", change).split() == [expected]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("uids=0-1-10", "needs both uids and gids"),
        ("users=0-1-10;gids=0-1-10", "is not of the form uids=FILE-HOST-COUNT"),
        ("uids=0-1;gids=0-1-10", "'0-1' is not of the form FILE-HOST-COUNT"),
        ("uids=@0-70000-1;gids=0-1-10", "the container's user namespace has no id 70000"),
    ],
)
def test_id_maps_in_the_option_are_checked(
    runtime: Runtime, source: Path, value: str, told: str
) -> None:
    def change(config: dict[str, Any]) -> None:
        entry = {"destination": "/tmp", "type": "bind", "source": str(source)}
        config["mounts"].append({**entry, "options": ["bind", f"idmap={value}"]})

    runtime.config("true", change=change)
    done = runtime.call("run", NAME, check=False)
    assert (done.returncode, told in done.stderr) == (1, True)
    assert "mounts[6].options: idmap" in done.stderr


# --- the root -------------------------------------------------------------------------------------


def test_a_read_only_root(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = True

    script = "touch /x 2>&1; touch /dev/shm/x && echo written"
    said = say(both, script, change)
    assert said == "touch: /x: Read-only file system\nwritten\n"


@pytest.mark.parametrize("pivot", ["--no-pivot", ""])
def test_the_host_s_files_are_out_of_reach(runtime: Runtime, pivot: str) -> None:
    runtime.config("sh", "-c", "cat /proc/self/mountinfo; ls /; sleep 1000")
    runtime.quiet("run", "--detach", *([pivot] if pivot else []), NAME)
    pid = runtime.pid(NAME)
    found = mounts(Path(f"/proc/{pid}/mountinfo").read_text())
    assert set(found) >= {"/", "/proc", "/dev"}
    assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir(runtime.rootfs))
    done = runtime.call("exec", NAME, "sh", "-c", "ls / | head -3; pwd")
    assert done.stdout.splitlines()[-1] == "/"
    assert done.stdout.splitlines()[0] == min(os.listdir(runtime.rootfs))
    if pivot:
        # The one whole /proc that is left is that of the container.
        procs = [m for m in found.values() if m.fstype == "proc" and m.point == "/proc"]
        assert len(procs) == 1


# --- file systems of the kernel -------------------------------------------------------------------


def test_cgroup_mounts_begin_at_the_container_s_own(runtime: Runtime) -> None:
    entry = {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    }

    def shared(config: dict[str, Any]) -> None:
        mounting(entry)(config)
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "cgroup"]

    host = mounts(Path("/proc/self/mountinfo").read_text())
    hierarchies = {
        os.path.basename(m.point) for m in host.values() if m.fstype in ("cgroup", "cgroup2")
    }
    for change in (mounting(entry), shared):
        runtime.config(*SLEEP, change=change)
        runtime.quiet("run", "--detach", NAME)
        pid = runtime.pid(NAME)
        found = mounts(Path(f"/proc/{pid}/mountinfo").read_text())
        if "/sys/fs/cgroup/pids" in host:
            below = [m for m in found if m.startswith("/sys/fs/cgroup/")]
            assert {os.path.basename(m) for m in below} == hierarchies
            assert all("ro" in found[m].options for m in (*below, "/sys/fs/cgroup"))
        base = Path(f"/proc/{pid}/root/sys/fs/cgroup")
        procs = base / "unified/cgroup.procs" if (base / "unified").exists() else base
        assert procs.read_text().split() == [str(pid)], "the container's process alone is in it"
        runtime.call("delete", "--force", NAME)


def test_sysfs_is_the_host_s_where_the_network_is(rootless: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "network"]

    found = seen(rootless, change)
    assert found["/sys"].fstype == "sysfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(found["/sys"].options)


def test_paths_are_hidden_and_made_read_only(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["maskedPaths"] = ["/etc/group", "/usr", "/not/there", "/etc/group/x"]
        config["linux"]["readonlyPaths"] = ["/tmp", "/etc/passwd", "/not/there"]

    script = (
        "wc -c < /etc/group; ls /usr; touch /usr/x /tmp/x 2>&1; "
        "{ echo x > /etc/passwd; } 2>&1; head -c 4 /etc/passwd"
    )
    said = say(both, script, change).splitlines()
    assert said[0] == "0"
    assert said[1:3] == [
        *("touch: /usr/x: Read-only file system", "touch: /tmp/x: Read-only file system")
    ]
    assert said[-1] == "root"


def test_read_only_paths_are_so_with_what_is_mounted_below(runtime: Runtime, source: Path) -> None:
    entry = {"destination": "/m", "type": "bind", "source": str(source), "options": ["rbind"]}
    change = mounting(entry, readonlyPaths=["/m"])
    said = say(runtime, "touch /m/x /m/below/x 2>&1; cat /m/file", change).splitlines()
    assert said == [
        *(f"touch: /m/{name}: Read-only file system" for name in ("x", "below/x")),
        "of the host",
    ]
    (source / "below" / "x").touch()  # the host's own mounts stay as they were


def test_proc_may_not_be_put_elsewhere_by_a_link(runtime: Runtime, place: Path) -> None:
    """A root file system whose /proc leads elsewhere would make the runtime trust that place."""
    trap = runtime.home / "trap"
    subprocess.run(["cp", "-a", runtime.rootfs, trap], check=True)
    (trap / "proc").rmdir()
    (trap / "proc").symlink_to("/tmp")

    def change(config: dict[str, Any]) -> None:
        config["root"]["path"] = str(trap)

    runtime.config("true", change=change)
    done = runtime.call("run", NAME, check=False)
    assert done.returncode == 1
    assert '"mount /proc"' in done.stderr


def test_sources_are_found_with_the_caller_s_rights(runtime: Runtime) -> None:
    """Root in a new user namespace has no rights on others' files; who starts it has."""
    secret = runtime.home / "secret"
    (secret / "data").mkdir(parents=True)
    (secret / "data" / "file").write_text("found\n")
    secret.chmod(0o700)
    os.chown(secret, 1234, 1234)

    def change(config: dict[str, Any]) -> None:
        in_user_namespace(config)
        options = ["rbind", "ro"]
        config["mounts"].append(
            {"destination": "/tmp", "type": "bind", "source": f"{secret}/data", "options": options}
        )

    assert say(runtime, "cat /tmp/file; touch /tmp/x 2>&1; true", change) == (
        "found\ntouch: /tmp/x: Read-only file system\n"
    )


def test_a_relative_source_is_beside_the_configuration(runtime: Runtime) -> None:
    (runtime.bundle / "data").mkdir()
    (runtime.bundle / "data" / "file").write_text("found\n")
    entry = {"destination": "/tmp", "type": "bind", "source": "data", "options": ["bind"]}
    runtime.config("cat", "/tmp/file", change=mounting(entry))
    done = runtime.call("run", "--bundle", str(runtime.bundle), NAME)
    assert done.stdout == "found\n"


# --- mounts in mounts ---------------------------------------------------------------------------


def test_the_source_of_a_mount_may_be_in_a_mount_before_it(both: Runtime) -> None:
    """Named as the host knows it, by way of the bundle's own root file system."""
    (both.home / "given").mkdir()
    (both.home / "given" / "file").write_text("of the host")
    within = both.rootfs / "mnt"
    within.mkdir(exist_ok=True)
    (both.rootfs / "final").mkdir()
    change = mounting(
        {"destination": "/mnt", "source": str(both.home / "given"), "options": ["bind"]},
        {"destination": f"{both.rootfs}/final", "source": str(within), "options": ["rbind"]},
    )
    assert say(both, "cat /final/file", change) == "of the host"


def test_a_source_in_the_root_does_not_lead_out_of_it(both: Runtime) -> None:
    (both.rootfs / "etc" / "hostname").write_text("of the image")
    (both.rootfs / "out").symlink_to("/etc/hostname")
    (both.rootfs / "seen").write_text("")
    entry = {"destination": "/seen", "source": f"{both.rootfs}/out", "options": ["bind"]}
    assert say(both, "cat /seen", mounting(entry)) == "of the image"


def test_a_tmpfs_without_a_mode_says_which_it_took_over(runtime: Runtime) -> None:
    (runtime.rootfs / "place").mkdir(mode=0o710)
    (runtime.rootfs / "place").chmod(0o710)
    entry = {"destination": "/place", "type": "tmpfs", "source": "tmpfs"}
    assert "mode=710" in seen(runtime, mounting(entry))["/place"].super_options


def test_a_terminal_has_its_console_in_a_read_only_dev(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True
        dev = next(entry for entry in config["mounts"] if entry["destination"] == "/dev")
        dev["options"].append("ro")

    runtime.config("sh", "-c", "tty; touch /dev/new || ls /dev/console", change=change)
    told = runtime.call("run", NAME).stdout
    assert told.startswith("/dev/pts/0\n"), "and a pipe is given line ends as they are"
    assert "Read-only file system" in told
    assert told.endswith("/dev/console\n")
