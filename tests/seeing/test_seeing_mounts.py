"""Mounts as they are made by mount(8), unshare(1) and others' runtimes, found in the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from seeing_tools import PROJECT, SHELL, child, python, running, unshared

from ctrt.linux import mountinfo
from ctrt.observe import (
    Unknown,
    covered,
    id_mappings,
    locked,
    peer_groups,
    reached,
    scan,
    snapshot,
    translate,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mounts_at(system, pid, target):
    table = system.tables[system.space(pid, "mnt").key]
    return [mount for mount in table.mounts if mount.target == target]


def test_peer_groups_across_namespaces(tmp_path):
    outer = 'mount -t tmpfs x "$0" && mount --make-shared "$0" && echo ready && read line'
    with unshared("-m", command=("sh", "-c", outer, str(tmp_path))) as one:
        enter = ("nsenter", "-t", str(one), "-m", "unshare", "-m", "--propagation")
        with (
            running(*enter, "unchanged", *SHELL) as peer,
            running(*enter, "slave", *SHELL) as slave,
            running(*enter, "private", *SHELL) as private,
        ):
            system = scan()
            (first,) = mounts_at(system, one, str(tmp_path))
            groups = peer_groups(system)
            group = groups[first.shared]
            key = {pid: system.space(pid, "mnt").key for pid in (one, peer, slave, private)}
            assert {member.space for member in group.members} == {key[one], key[peer]}
            assert {member.space for member in group.receivers} == {key[slave]}
            assert group.masters == ()
            there = {member.space for member in reached(groups, first)}
            assert there == {key[one], key[peer], key[slave]}
            (alone,) = mounts_at(system, private, str(tmp_path))
            assert alone.propagation == "private"
            assert reached(groups, alone) == ()
            # The kernel agrees: a mount made in the first is in just these.
            subprocess.run(
                ["nsenter", "-t", str(one), "-m", "sh", "-c",
                 f"mkdir {tmp_path}/new && mount -t tmpfs y {tmp_path}/new"], check=True,
            )  # fmt: skip
            system = scan(details=False)
            seen = {pid for pid in key if mounts_at(system, pid, f"{tmp_path}/new")}
            assert seen == {one, peer, slave}


def test_propagate_from_is_the_group_that_is_seen(tmp_path):
    # mount_namespaces(7): a slave of a slave, looked at from a root where its master is not.
    script = """
    cd "$0"; mkdir x; mount -t tmpfs base x; mount --make-shared x
    mkdir y z; mount --bind x y; mount --make-slave y; mount --make-shared y
    mkdir -p x/inside; mount --bind y x/inside; mount --make-slave x/inside
    echo ready; read line
    """
    with unshared("-m", command=("sh", "-c", script, str(tmp_path))) as pid:
        system = scan()
        groups = peer_groups(system)
        (x,) = mounts_at(system, pid, f"{tmp_path}/x")
        (y,) = mounts_at(system, pid, f"{tmp_path}/y")
        assert y.propagation == "shared+slave"
        assert groups[y.shared].masters == (x.shared,)
        (inside,) = mounts_at(system, pid, f"{tmp_path}/x/inside")
        assert inside.master == y.shared
        assert inside.propagate_from == 0
        places = {member.mount.target for member in reached(groups, x)}
        assert places >= {f"{tmp_path}/x", f"{tmp_path}/y", f"{tmp_path}/x/inside"}
        # A process whose root is x/inside's parent sees x itself, but not y.
        with running("nsenter", "-t", str(pid), "-m", *python(CHROOTED, f"{tmp_path}/x")) as low:
            (seen,) = [m for m in mountinfo.read(low) if m.target == "/inside"]
            assert seen.master == y.shared
            assert seen.propagate_from == x.shared


CHROOTED = "import os; os.chroot(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"


def test_a_namespace_whose_only_process_has_a_smaller_root_is_complete(tmp_path):
    (tmp_path / "low").mkdir()
    script = f"mount -t tmpfs other {tmp_path}/low && exec " + '"$@"'
    command = ("sh", "-c", script, "sh", *python(CHROOTED, f"{tmp_path}/low"))
    with unshared("-m", command=command) as pid:
        system = scan()
        table = system.tables[system.space(pid, "mnt").key]
        assert len(mountinfo.read(pid)) == 1
        assert table.complete
        assert table.source == "statmount"
        assert {m.target for m in table.mounts} >= {"/proc", f"{tmp_path}/low"}


def test_over_mounts_are_covered(tmp_path):
    script = """
    mount -t tmpfs one "$0"; mkdir "$0/a"; mount -t tmpfs two "$0/a"; mount -t tmpfs three "$0"
    echo ready; read line
    """
    with unshared("-m", command=("sh", "-c", script, str(tmp_path))) as pid:
        table = scan().tables[scan().space(pid, "mnt").key]
        hidden = {m.source for m in table.mounts if m.id in covered(table.mounts)}
        assert hidden >= {"one", "two"}
        assert "three" not in hidden


def umount_refused(pid, target):
    """Whether the kernel itself refuses to unmount, tried inside in a copy of nothing."""
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-U", "-m", "--preserve-credentials", *python(
            "import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "print(libc.umount2(sys.argv[1].encode(), 2), ctypes.get_errno())", target)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split() == ["-1", "22"]


def test_locked_mounts_are_those_that_the_kernel_will_not_unmount(tmp_path):
    outer = (
        'mount -t tmpfs private "$0"; mkdir "$0/a" "$0/b"; mount -t tmpfs deep "$0/a"; '
        'unshare -Urm sh -c \'mount -t tmpfs own "$0/b"; mkdir "$0/b/c"; '
        'mount -t tmpfs own "$0/b/c"; echo ready; read line\' "$0"; true'
    )
    with unshared("-m", command=("sh", "-c", outer, str(tmp_path))) as outside:
        pid = child(outside)
        system = scan()
        key = system.space(pid, "mnt").key
        answer = locked(system, key)
        table = system.tables[key]
        hidden = covered(table.mounts)
        own = {m.target: m.id in answer for m in table.mounts if m.source == "own"}
        assert own == {f"{tmp_path}/b": False, f"{tmp_path}/b/c": False}
        for mount in reversed(table.mounts):
            if mount.target != "/" and mount.id not in hidden:
                below = [m for m in table.mounts if m.parent == mount.id]
                if any(m.id in answer for m in below):
                    continue  # the one below is what is locked to it
                assert umount_refused(pid, mount.target) == (mount.id in answer), mount.line


def test_nothing_is_locked_where_no_privilege_was_lost():
    with unshared("-m") as pid:
        system = scan()
        assert locked(system, system.space(pid, "mnt").key) == frozenset()


IDMAPPED = """
import ctypes, os
from ctrt.linux import calls
userns = os.open(f"/proc/{sys.argv[2]}/ns/user", os.O_RDONLY)
tree = calls.open_tree(-100, sys.argv[1], calls.OPEN_TREE_CLONE)
calls.mount_setattr(tree, attr_set=calls.MOUNT_ATTR_IDMAP, userns=userns)
target = os.open(sys.argv[1], os.O_PATH)
calls.move_mount(tree, target)
print("ready", flush=True); sys.stdin.read()
"""


def test_id_mapped_mounts(tmp_path):
    with unshared("-U") as mapper:
        for kind, first in (("uid", 5000), ("gid", 6000)):
            with open(f"/proc/{mapper}/{kind}_map", "w") as file:
                file.write(f"0 {first} 10\n")
        command = python(IDMAPPED, str(tmp_path), str(mapper))
        with unshared("-m", command=command) as pid:
            system = scan()
            (found,) = id_mappings(system, system.space(pid, "mnt").key)
            assert found.mount.target == str(tmp_path)
            assert found.uid_map == ((0, 5000, 10),)
            assert found.gid_map == ((0, 6000, 10),)
            assert id_mappings(system, system.space(mapper, "mnt").key) == ()


def test_a_path_inside_as_the_host_has_it(tmp_path):
    for name in ("data", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "file").write_text("x")
    script = """
    mount -t tmpfs box "$0/root"; mkdir "$0/root/vol"; mount --bind "$0/data" "$0/root/vol"
    echo ready; read line
    """
    with unshared("-m", command=("sh", "-c", script, str(tmp_path))) as pid:
        system = scan()
        here, there = system.space(pid, "mnt").key, system.space(os.getpid(), "mnt").key
        got = translate(system, f"{tmp_path}/root/vol/file", space=here, into=there)
        assert got.path == f"{tmp_path}/data/file"
        assert not got.covered
        got = translate(system, f"{tmp_path}/root/elsewhere", space=here, into=there)
        assert (got.path, got.inside) == (None, "/elsewhere")


# --- what others' runtimes make of a mount's propagation options ------------------------------

KINDS_OF_ROOT = ("rprivate", "slave", "shared")
NEW = "shared, a group of its own"
SAME = "shared with the host"
RECEIVES = "receives from the host"
BOTH = "receives from the host, shared in a group of its own"
# Options: what runc makes of them for each rootfsPropagation, and crun.
ORACLE = {
    ("rbind",): (("private", SAME, SAME), ("private", SAME, SAME)),
    ("rbind", "shared"): ((NEW, SAME, SAME), ("private", SAME, SAME)),
    ("rbind", "rshared"): ((NEW, SAME, SAME), ("private", SAME, SAME)),
    ("rbind", "slave"): (("private", RECEIVES, RECEIVES),) * 2,
    ("rbind", "rslave"): (("private", RECEIVES, RECEIVES),) * 2,
    ("rbind", "slave", "shared"): ((NEW, BOTH, BOTH), ("refused",) * 3),
    ("rbind", "rslave", "rshared"): ((NEW, BOTH, BOTH), ("refused",) * 3),
    ("rbind", "shared", "slave"): (("private", RECEIVES, RECEIVES), ("refused",) * 3),
    ("rbind", "private"): (("private",) * 3,) * 2,
    ("rbind", "rprivate"): (("private",) * 3,) * 2,
    ("rbind", "unbindable"): (("unbindable",) * 3, ("private", "unbindable", "unbindable")),
    ("rbind", "runbindable"): (("unbindable",) * 3, ("private", "unbindable", "unbindable")),
}

MAKE_ALL = """
import json, os, subprocess
runtime, place, orders = sys.argv[1], sys.argv[2], json.load(open(sys.argv[2] + "/orders"))
for number, (options, root) in enumerate(orders):
    config = json.load(open(place + "/config.json"))
    config["linux"]["rootfsPropagation"] = root
    config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": place + "/src", "options": options})
    os.makedirs(f"{place}/{number}", exist_ok=True)
    json.dump(config, open(f"{place}/{number}/config.json", "w"))
    done = subprocess.run(
        [runtime, "--root", place + "/state", "run", "-d", "-b", f"{place}/{number}",
         "--pid-file", f"{place}/{number}/pid", f"seen-{os.getpid()}-{number}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode and os.path.exists(f"{place}/{number}/pid"):
        os.remove(f"{place}/{number}/pid")
print("ready", flush=True); sys.stdin.readline()
for number in range(len(orders)):
    subprocess.run([runtime, "--root", place + "/state", "delete", "--force",
        f"seen-{os.getpid()}-{number}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("gone", flush=True)
"""


@pytest.mark.parametrize("runtime", ["runc", "crun", "ctrt-runtime"])
def test_what_runtimes_make_of_propagation_options(tmp_path, runtime):
    """The kernel's own answer for every option, as the model tells it."""
    # The command of this project is beside the interpreter that it is installed for.
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    program = shutil.which(runtime, path=path)
    if program is None:
        pytest.skip(f"{runtime} is not installed")
    place = tmp_path
    (place / "rootfs/bin").mkdir(parents=True)
    (place / "src").mkdir()
    shutil.copy("/bin/busybox", place / "rootfs/bin/busybox")
    subprocess.run([program, "spec"], cwd=place, check=True)
    config = json.loads((place / "config.json").read_text())
    config["process"].update(args=["/bin/busybox", "sleep", "600"], terminal=False)
    config["process"].pop("rlimits", None)
    config["root"] = {"path": str(place / "rootfs")}
    config["ociVersion"] = "1.0.2"
    (place / "config.json").write_text(json.dumps(config))
    orders = [(options, root) for options in ORACLE for root in KINDS_OF_ROOT]
    (place / "orders").write_text(json.dumps(orders))
    # crun refuses a machine with cgroup v1 and v2 beside each other, so it sees no v2.
    script = (
        "umount /sys/fs/cgroup/unified 2>/dev/null; mount --make-rshared /; "
        'mount --bind "$0/src" "$0/src"; mount --make-shared "$0/src"; exec "$@"'
    )
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, str(place), *python(MAKE_ALL, program, str(place))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        system = scan()
        (source,) = mounts_at(system, process.pid, f"{place}/src")[-1:]
        assert source.shared
        told = {}
        for number, (options, root) in enumerate(orders):
            pid_file = place / str(number) / "pid"
            if not pid_file.exists():
                told[options, root] = "refused"
                continue
            (mount,) = mounts_at(system, int(pid_file.read_text()), "/mnt")
            told[options, root] = in_words(mount, source)
    finally:
        process.communicate("\n", timeout=60)
    which = 1 if runtime == "crun" else 0  # ctrt does as runc does
    expected = {
        (options, root): ORACLE[options][which][KINDS_OF_ROOT.index(root)]
        for options, root in orders
    }
    assert told == expected


def test_the_page_has_this_table():
    page = (PROJECT / "docs/seeing.md").read_text()
    short = {NEW: "shared, own group", SAME: "shared with host", RECEIVES: "receives",
             BOTH: "receives, shared"}  # fmt: skip
    told = 0
    for options, (runc, crun) in ORACLE.items():
        if any(option.startswith("r") for option in options[1:]):
            continue  # the page names the plain ones; the others are the same
        cells = [
            short.get(one, one) + ("" if one == other else f" (crun: {short.get(other, other)})")
            for one, other in zip(runc, crun, strict=True)
        ]
        assert f"| `{','.join(options)}` | {' | '.join(cells)} |" in page
        told += 1
    for options, answers in ORACLE.items():
        plain = (options[0], *(option.removeprefix("r") for option in options[1:]))
        assert answers == ORACLE[plain]
    assert told == 7


def in_words(mount, source):
    if mount.master == source.shared:
        return BOTH if mount.shared else RECEIVES
    if mount.shared:
        return SAME if mount.shared == source.shared else NEW
    return mount.propagation


def test_the_one_process_door_says_the_same(tmp_path):
    with unshared("-m") as pid:
        before, all_of_it, after = snapshot(pid), scan(), snapshot(pid)
        table = all_of_it.tables[all_of_it.space(pid, "mnt").key]
        assert not isinstance(table, Unknown)
        # Others mount and unmount on this machine meanwhile, and that propagates.
        lasting = set(before.mounts) & set(after.mounts)
        assert len(lasting) > 5
        assert lasting <= set(table.mounts)
