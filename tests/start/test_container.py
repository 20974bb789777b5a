"""A container as it is seen from inside and outside, in each of the three worlds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ctrt.engine.config import cgroup_name

IMAGE = "localhost/test/box"
CGROUPS = Path("/sys/fs/cgroup/unified/ctrt")
if not CGROUPS.parent.exists():
    CGROUPS = Path("/sys/fs/cgroup/ctrt")


def sh(world, script, *options):
    result = world.ctrt("run", *options, IMAGE, "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    return result.stdout


def leftovers(world):
    """What a container that ended must not leave: directories, cgroups, mounts, processes."""
    containers = world.root / "containers"
    found = sorted(os.listdir(containers)) if containers.exists() else []
    if world.user is None and CGROUPS.exists():
        for path in CGROUPS.iterdir():  # those of other stores are not ours to count
            name = path.name.rpartition("-")[0]
            if path.name == cgroup_name(name, f"{containers}/{name}"):
                found.append(str(path))
    with open("/proc/self/mountinfo") as file:
        found += [line for line in file if str(world.root) in line]
    return found


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_output_and_exit_status(world):
    result = world.ctrt("run", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)
    assert leftovers(world) == []


def test_a_signal_is_128_more(world):
    # Process 1 of a pid namespace is immune to its own signals, so a child is killed.
    result = world.ctrt("run", IMAGE, "sh", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert result.returncode == 137


def test_it_is_process_one_and_root_inside(world):
    assert sh(world, "echo $$; id -u; hostname; pwd") == "1\n0\nbox\n/\n"


def test_root_inside_is_an_ordinary_id_outside(world):
    extents = [line.split() for line in sh(world, "cat /proc/self/uid_map").splitlines()]
    first = int(extents[0][1])
    if world.user is None:
        assert first > 0
    else:
        assert first == world.home.stat().st_uid
    assert len(extents) == (2 if world.name == "subordinate" else 1)


def test_all_seven_namespaces_are_new(world):
    kinds = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
    inside = sh(world, "for k in user mnt pid net uts ipc cgroup; do readlink /proc/1/ns/$k; done")
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside.splitlines()) == 7
    assert not set(inside.splitlines()) & set(outside)


def test_only_loopback_and_it_is_up(world):
    script = "ls /sys/class/net; cat /sys/class/net/lo/flags; nc 127.0.0.1 1 2>&1; :"
    interface, flags, answer = sh(world, script).splitlines()
    assert (interface, flags) == ("lo", "0x9")
    # Were it down, the network would be unreachable.
    assert "Connection refused" in answer


def test_default_capabilities_and_no_new_privileges(world):
    lines = dict(
        line.split(":\t", 1)
        for line in sh(world, "cat /proc/self/status").splitlines()
        if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))
    )
    kept = 0x800405FB  # the eleven of podman's default
    assert {name: int(lines[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {
        "CapPrm": kept,
        "CapEff": kept,
        "CapBnd": kept,
    }
    assert int(lines["CapInh"], 16) == int(lines["CapAmb"], 16) == 0
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"


def test_seccomp_refuses_what_the_profile_refuses(world):
    confined = world.ctrt("run", "--cap-add", "ALL", IMAGE, "unshare", "-m", "true")
    assert confined.returncode == 0, "with CAP_SYS_ADMIN the profile lets unshare through"
    refused = world.ctrt("run", IMAGE, "unshare", "-U", "true")
    assert refused.returncode == 1
    assert "Operation not permitted" in refused.stderr
    options = ("--security-opt", "seccomp=unconfined")
    assert world.ctrt("run", *options, IMAGE, "unshare", "-U", "true").returncode == 0


def test_masked_and_read_only_paths(world):
    assert sh(world, "cat /proc/keys /proc/timer_list | wc -c; ls -A /sys/firmware") == "0\n"
    written = world.ctrt("run", IMAGE, "sh", "-c", "echo 1 > /proc/sys/kernel/hostname")
    assert "Read-only file system" in written.stderr
    assert "Read-only file system" in world.ctrt("run", IMAGE, "mkdir", "/sys/x").stderr


def test_the_devices_work_and_there_are_no_others(world):
    assert sh(world, "head -c 4 /dev/zero | wc -c; echo x > /dev/null; ls /dev | tr '\\n' ' '") == (
        "4\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    )


def test_no_descriptor_of_the_host_gets_in(world):
    with open("/etc/hostname") as file:
        os.set_inheritable(file.fileno(), True)
        result = subprocess.run(
            world.words(str(world.bin / "ctrt"), "run", IMAGE, "sh", "-c", "ls /proc/1/fd; :"),
            env=world.environment(),
            capture_output=True,
            text=True,
            check=True,
            pass_fds=[file.fileno()],
        )
    assert result.stdout.split() == ["0", "1", "2"]


def test_what_it_writes_is_gone_with_it(world):
    assert sh(world, "echo new > /etc/new && cat /etc/new && rm /bin/ls && touch /bin/own") == (
        "new\n"
    )
    assert sh(world, "ls /bin/ls; test -e /etc/new || echo gone") == "/bin/ls\ngone\n"
    assert leftovers(world) == []


def test_files_of_other_ids_are_cleaned_up_too(world):
    if world.name == "single":
        refused = world.ctrt("run", IMAGE, "chown", "1000", "/etc")
        assert "Invalid argument" in refused.stderr
        return
    sh(world, "mkdir /d && touch /d/f && chown -R 1000:1000 /d && chmod 700 /d")
    assert leftovers(world) == []


def test_another_user(world):
    if world.name == "single":
        result = world.ctrt("run", "-u", "1000", IMAGE, "id")
        assert result.returncode == 125
        assert result.stderr.startswith("ctrt: user 1000 cannot be used in the container: ")
        assert result.stderr.count("\n") == 1
        return
    assert sh(world, "id -u; id -g; grep CapEff /proc/self/status", "-u", "1000:100") == (
        "1000\n100\nCapEff:\t0000000000000000\n"
    )


def test_options_have_their_effect(world):
    script = "echo $A; pwd; hostname; touch /x; mount | grep -c /scratch; cat /data/f"
    data = world.home / "data"
    data.mkdir(exist_ok=True, mode=0o755)
    (data / "f").write_text("from the host\n")
    result = world.ctrt(
        *("run", "-e", "A=b", "-w", "/tmp", "-h", "other", "--read-only"),
        *("--tmpfs", "/scratch:size=1m", "-v", f"{data}:/data:ro", IMAGE, "sh", "-c", script),
    )
    assert result.stdout == "b\n/tmp\nother\n1\nfrom the host\n"
    assert "Read-only file system" in result.stderr


def test_capabilities_can_be_added_and_dropped(world):
    status = "grep -E 'Cap(Eff|Bnd)' /proc/self/status"
    assert sh(world, status, "--cap-drop", "ALL") == (
        "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
    )
    assert sh(world, status, "--cap-drop", "all", "--cap-add", "net_raw") == (
        "CapEff:\t0000000000002000\nCapBnd:\t0000000000002000\n"
    )


def test_the_plan_is_printed_and_nothing_runs(world):
    first = world.ctrt("run", "--plan", IMAGE, "touch", "/x")
    again = world.ctrt("run", "--plan", IMAGE, "touch", "/x")
    assert first.stdout == again.stdout
    assert "clone3(CLONE_NEWUSER|" in first.stdout
    assert str(world.home) not in first.stdout
    assert leftovers(world) == []


def test_another_store_is_named_by_root(world):
    other = world.home / "other"
    made = world.ctrt(
        "--root", str(other), "image", "from-host", "--name", "localhost/x", "busybox"
    )
    assert made.returncode == 0, made.stderr
    assert "localhost/x:latest" in world.ctrt(f"--root={other}", "images").stdout
    assert "localhost/x:latest" not in world.ctrt("images").stdout
    assert world.ctrt("--root", str(other), "run", "localhost/x", "id", "-u").stdout == "0\n"
    assert world.ctrt("--root").stderr == "ctrt: --root needs the directory of a store\n"
    code = f"from ctrt.engine import Engine; Engine({str(other)!r}).destroy()"
    assert world.run(str(world.bin / "python"), "-c", code).returncode == 0
    assert not other.exists()


def test_a_detached_container_lives_on_and_can_be_stopped(world):
    script = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    started = world.ctrt("run", "-d", "--name", "keeper", IMAGE, "sh", "-c", script)
    assert (started.stdout, started.returncode) == ("keeper\n", 0), started.stderr
    line = world.ctrt("ps").stdout.splitlines()[1]
    assert line.startswith("keeper  localhost/test/box")
    second = world.ctrt("run", "--name", "keeper", IMAGE, "true")
    assert second.stderr == "ctrt: there is a container 'keeper' already; see: ctrt ps\n"
    assert world.ctrt("stop", "keeper").returncode == 0
    assert leftovers(world) == []


def test_kill_9_leaves_nothing_after_the_next_command(world):
    process = subprocess.Popen(
        world.words(str(world.bin / "ctrt"), "run", "--name", "victim", IMAGE, "sleep", "1000"),
        env=world.environment(),
    )
    journal = world.root / "containers" / "victim" / "journal"
    assert wait_until(lambda: journal.exists() and journal.read_bytes()[:16].strip())
    init = int(journal.read_bytes()[:16])
    process.kill()
    process.wait()
    assert wait_until(lambda: not Path(f"/proc/{init}").exists()), "the container outlived ctrt"
    assert leftovers(world) != []
    assert world.ctrt("ps").stdout.splitlines() == ["NAME  IMAGE  COMMAND  PID"]
    assert leftovers(world) == []


def test_ctrl_c_reaches_the_container(world):
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        world.words(str(world.bin / "ctrt"), "run", IMAGE, "sh", "-c", script),
        env=world.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "caught\n"
    assert process.wait() == 3


SENTENCES = {
    ("run", IMAGE, "nosuch"): (
        127,
        r"localhost/test/box:latest has no command 'nosuch' in its PATH \(.*\)",
    ),
    ("run", IMAGE, "/no/such"): (
        127,
        r"localhost/test/box:latest has no /no/such, or not the interpreter that it names",
    ),
    ("run", IMAGE, "/etc/hosts"): (
        126,
        r"/etc/hosts of localhost/test/box:latest may not be executed: Permission denied.*",
    ),
    ("run", "--cap-ad", "x", IMAGE): (
        125,
        r"run: there is no option --cap-ad; did you mean --cap-add\?",
    ),
    ("run", "--cap-add", "SYS_ADMN", IMAGE, "id"): (
        125,
        r"--cap-add: there is no capability 'SYS_ADMN'; did you mean CAP_SYS_ADMIN\?",
    ),
    ("run", "--pull", "never", "nosuch/image"): (
        125,
        r"there is no image nosuch/image in the store; pull it with: ctrt pull nosuch/image",
    ),
    ("run", "-v", "/no/such:/x", IMAGE): (
        125,
        r"--volume 1: /no/such does not exist on the host",
    ),
    ("run", "-u", "nobody-here", IMAGE): (
        125,
        r"the image has no user 'nobody-here' in its /etc/passwd",
    ),
    ("run", "-w", "relative", IMAGE): (
        125,
        r"the working directory 'relative' is not an absolute path",
    ),
    ("run", "--name", "a/b", IMAGE): (125, r"the name 'a/b' is not letters, .*"),
    ("run",): (125, r"run: expected IMAGE \[COMMAND \[ARG\.\.\.\]\]; see ctrt run --help"),
    ("rnu",): (125, r"there is no verb 'rnu'; did you mean run\?"),
    ("stop", "nosuch"): (125, r"there is no running container 'nosuch'; none is running"),
    ("graph", "99999999"): (125, r"there is no process 99999999"),
    ("rmi", "nosuch"): (125, r"there is no image nosuch in the store; see: ctrt images"),
}


@pytest.mark.parametrize("words", SENTENCES, ids=" ".join)
def test_a_mistake_gets_one_sentence(world, words):
    status, sentence = SENTENCES[words]
    result = world.ctrt(*words)
    assert re.fullmatch(f"ctrt: {sentence}\n", result.stderr), result.stderr
    assert result.returncode == status
    assert leftovers(world) == []


def test_no_user_namespaces_is_one_sentence(world):
    """A user namespace in which no more can be made stands for a machine that forbids them."""
    result = world.run(
        *("unshare", "-Ur", "sh", "-c"),
        'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"',
        *("sh", str(world.bin / "ctrt"), "run", IMAGE, "true"),
    )
    assert result.returncode == 125
    assert result.stderr.count("\n") == 1
    assert "no more namespaces can be made here" in result.stderr
    assert leftovers(world) == []


def test_unshare_is_the_lecture_s(world):
    result = world.ctrt("unshare", "-UinpmrC", "-f", "/bin/bash", stdin="whoami\ngetpcaps $$\n")
    assert (result.stdout, result.returncode) == ("root\n1: =ep\n", 0), result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("-U", "grep", "Cap", "/proc/self/status"),
        ("-Ur", "id"),
        ("-Uc", "id"),
        ("-Ur", "cat", "/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"),
        ("-Urpf", "sh", "-c", "echo $$"),
        ("-Urp", "sh", "-c", "sh -c 'echo $$'; sh -c 'echo $$'"),
        ("-Urpf", "--mount-proc", "ps", "-e", "-o", "pid,comm"),
        ("-Urm", "findmnt", "-n", "-o", "PROPAGATION", "/"),
        ("-Urm", "--propagation", "unchanged", "findmnt", "-n", "-o", "PROPAGATION", "/"),
        ("-UrT", "true"),
        ("-Uru", "sh", "-c", "hostname inside; hostname"),
        ("-Urn", "ls", "/sys/class/net"),
        ("-Urn", "cat", "/proc/net/dev"),
        ("-U", "--setgroups", "deny", "cat", "/proc/self/setgroups"),
        ("--map-user=5", "--map-group=7", "id"),
        ("-Uc", "--keep-caps", "grep", "Cap", "/proc/self/status"),
        ("-Ur", "-R", "/usr", "/usr/bin/true"),
        ("-Ur", "-R", "/", "-w", "/tmp", "pwd"),
        ("-UrT", "--monotonic", "1000000", "cat", "/proc/self/timens_offsets"),
        ("-UrTpf", "--boottime=5", "cat", "/proc/self/timens_offsets"),
        ("-Urp", "--kill-child=TERM", "sh", "-c", "echo $$"),
        ("-n", "false"),
    ],
    ids=" ".join,
)
def test_unshare_does_as_util_linux_does(world, words):
    ours = world.ctrt("unshare", *words)
    theirs = world.run("unshare", *words)
    if words[0] == "-n" and world.user is not None:
        assert theirs.returncode == 1
        assert ours.returncode == 125
        return
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode), (
        ours.stderr + theirs.stderr
    )


@pytest.mark.parametrize("words", ["", "-r", "--map-user=5", "-S 7 -G 8", "-S 0 -G 0"])
def test_unshare_maps_blocks_as_util_linux_does(world, words):
    if world.name != "subordinate":
        pytest.skip("util-linux has no block of ids to map here")
    look = ("sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id")
    ours = world.ctrt("unshare", "--map-auto", *words.split(), *look)
    theirs = world.run("unshare", "--map-auto", *words.split(), *look)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, 0), ours.stderr + theirs.stderr


@pytest.mark.parametrize("kind", ["uts", "mount", "pid", "net", "time"])
def test_a_file_keeps_a_namespace(world, kind, tmp_path):
    if world.user is not None:
        pytest.skip("the mount needs CAP_SYS_ADMIN here")
    kept = tmp_path / "kept"
    kept.touch()
    keep = f"{kind}={kept}"
    shared = world.run("findmnt", "-nT", str(kept), "-o", "PROPAGATION").stdout
    if kind == "mount" and "shared" in shared:
        pytest.skip("a mount namespace cannot be bound where mounts are shared")
    link = {"mount": "mnt"}.get(kind, kind)
    made = world.ctrt("unshare", "-f", f"--{keep}", "readlink", f"/proc/self/ns/{link}")
    assert made.returncode == 0, made.stderr
    try:
        again = world.run("nsenter", f"--{keep}", "readlink", f"/proc/self/ns/{link}")
        if kind == "pid":  # its first process has ended: no other can begin there
            assert "Cannot allocate memory" in again.stderr
        else:
            assert again.stdout == made.stdout, again.stderr
    finally:
        subprocess.run(["umount", kept], check=True)


def test_doctor_has_no_no_where_containers_start(world):
    rows = world.ctrt("doctor").stdout.splitlines()
    assert re.match(r"user namespaces +yes", rows[2])
