"""podman's volumes, user namespaces and pods on a runtime, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peers_engines import IMAGE, Podman

SLEEP = ("sleep", "1000")


def name() -> str:
    return f"peer-{uuid.uuid4().hex[:8]}"


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def pid_of(podman: Podman, container: str) -> int:
    return int(podman.check("inspect", "--format", "{{.State.Pid}}", container))


def privileged(podman: Podman, *words: str) -> None:
    """A program of the host as root, or as root of what podman keeps for an ordinary user."""
    if podman.rootless:
        podman.check("unshare", *words)
    else:
        subprocess.run(words, check=True)


# --- volumes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(podman: Podman) -> Iterator[Path]:
    """A shared mount where podman has its mounts, with a directory to mount at."""
    path = podman.folder / f"tree-{podman.runtime}"
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    privileged(podman, "mount", "-t", "tmpfs", "tests", str(path))
    privileged(podman, "mount", "--make-shared", str(path))
    privileged(podman, "mkdir", f"{path}/later")
    yield path
    privileged(podman, "umount", "--recursive", "--lazy", str(path))


PROPAGATION = {
    "": "", "private": "", "rprivate": "", "slave": "master:", "rslave": "master:",
    "shared": "shared:", "rshared": "shared:", "unbindable": "unbindable:",
    "runbindable": "unbindable:",
}  # fmt: skip


@pytest.mark.parametrize("kind", PROPAGATION)
def test_propagation(podman: Podman, tree: Path, kind: str) -> None:
    option = f":{kind}" if kind else ""
    line = podman.once("-v", f"{tree}:/x{option}", IMAGE, "grep", " /x ", "/proc/self/mountinfo")
    tags = line.partition(" - ")[0].split()[6:]
    kinds = [tag.partition(":")[0] + ":" for tag in tags if "propagate_from" not in tag]
    assert "".join(kinds) == PROPAGATION[kind]


@pytest.mark.parametrize("kind", ["rslave", "rshared", "rprivate"])
def test_a_mount_of_the_host_reaches_whom_it_should(podman: Podman, tree: Path, kind: str) -> None:
    made = name()
    words = ("run", "-d", "--name", made, "--network", "none", "-v", f"{tree}:/x:{kind}")
    podman.check(*words, IMAGE, *SLEEP)
    try:
        privileged(podman, "mount", "-t", "tmpfs", "later", f"{tree}/later")
        inside = podman.check("exec", made, "cat", "/proc/mounts")
        assert ("/x/later" in inside) == (kind != "rprivate")
        privileged(podman, "umount", f"{tree}/later")
        assert "/x/later" not in podman.check("exec", made, "cat", "/proc/mounts")
    finally:
        podman("rm", "--force", "--time", "0", made)


def test_a_mount_of_the_container_goes_out_by_a_shared_volume(podman: Podman, tree: Path) -> None:
    script = "mount -t tmpfs inner /x/later && touch /x/later/made"
    added = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    podman.once(*added, "-v", f"{tree}:/x:rshared", IMAGE, "sh", "-c", script)
    privileged(podman, "test", "-e", f"{tree}/later/made")
    privileged(podman, "umount", f"{tree}/later")
    podman.once(*added, "-v", f"{tree}:/x:rslave", IMAGE, "sh", "-c", script)
    privileged(podman, "test", "!", "-e", f"{tree}/later/made")


def test_an_overlay_over_a_volume_keeps_what_is_written(podman: Podman) -> None:
    path = podman.folder / "below"
    path.mkdir(exist_ok=True)
    (path / "file").write_text("below\n")
    path.chmod(0o777)
    out = podman.once(
        "-v", f"{path}:/x:O", IMAGE, "sh", "-c", "cat /x/file; echo new >/x/new; ls /x"
    )
    assert out.split() == ["below", "file", "new"]
    assert os.listdir(path) == ["file"]


def test_a_tmpfs_has_what_the_image_has_there(podman: Podman) -> None:
    script = "cat /etc/passwd; touch /etc/new && stat -f -c %T /etc"
    assert podman.once("--tmpfs", "/etc", IMAGE, "sh", "-c", script).split("\n")[-2] == "tmpfs"


# --- user namespaces -----------------------------------------------------------------------------


def maps_of(podman: Podman, *options: str) -> list[list[int]]:
    out = podman.once(*options, IMAGE, "cat", "/proc/self/uid_map")
    return [[int(word) for word in line.split()] for line in out.splitlines()]


def test_a_part_of_the_ids_for_each_container(podman: Podman, subordinate_world: Any) -> None:
    """--userns=auto: containers that run at the same time have different ids."""
    if not podman.rootless:
        # Root's come from the range of a user, which is told in a file.
        (podman.folder / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\n'
            f'graphroot = "{podman.folder}/store"\nrunroot = "{podman.folder}/runroot"\n'
            "[storage.options]\n"
            f'root-auto-userns-user = "{subordinate_world.user}"\n'
        )
    boxes = [name(), name()]
    try:
        found = []
        for box in boxes:
            podman.check("run", "-d", "--name", box, "--network", "none",
                         "--userns", "auto:size=1500", IMAGE, *SLEEP)  # fmt: skip
            text = podman.check("exec", box, "sh", "-c", "cat /proc/self/uid_map; id -u")
            inside, outside, size, user = map(int, text.split())
            assert (inside, size, user) == (0, 1500, 0)
            host = Path(f"/proc/{pid_of(podman, box)}/status").read_text()
            uid = int(host.partition("Uid:")[2].split()[0])
            assert uid not in (0, pwd.getpwnam(subordinate_world.user).pw_uid)
            found.append((outside, uid))
        assert abs(found[0][0] - found[1][0]) >= 1500
        assert abs(found[0][1] - found[1][1]) >= 1500
    finally:
        podman("rm", "--force", "--time", "0", *boxes)
        (podman.folder / "storage.conf").unlink(missing_ok=True)


def test_without_the_user_s_own_id(podman: Podman) -> None:
    if not podman.rootless:
        assert "rootless" in podman("run", "--rm", "--userns", "nomap", IMAGE, "id").stderr
        return
    assert maps_of(podman, "--userns", "nomap") == [[0, 1, 65536]]


def test_the_user_s_own_id_as_another(podman: Podman) -> None:
    if not podman.rootless:
        assert "rootless" in podman("run", "--rm", "--userns", "keep-id", IMAGE, "id").stderr
        return
    own = podman.folder / "own"
    own.mkdir(exist_ok=True)
    own.chmod(0o700)
    assert podman.user is not None
    os.chown(own, *pwd.getpwnam(podman.user)[2:4])
    out = podman.once("--userns", "keep-id:uid=200,gid=210", "-v", f"{own}:/x", IMAGE,
                      "sh", "-c", "id; stat -c %u:%g /x; touch /x/made && echo made")  # fmt: skip
    assert out.splitlines()[1:] == ["200:210", "made"]
    assert out.startswith("uid=200(200) gid=210(210)")
    assert (own / "made").stat().st_uid == pwd.getpwnam(podman.user).pw_uid


def test_the_user_namespace_of_podman_and_of_another_container(podman: Podman) -> None:
    if podman.rootless:
        host = podman.check("unshare", "readlink", "/proc/self/ns/user").strip()
    else:
        host = os.readlink("/proc/self/ns/user")
    assert podman.once("--userns", "host", IMAGE, "readlink", "/proc/self/ns/user").strip() == host
    made = name()
    maps = "0:1:1000" if podman.rootless else "0:700000:1000"
    podman.check("run", "-d", "--name", made, "--network", "none", "--uidmap", maps, "--gidmap",
                 maps, IMAGE, *SLEEP)  # fmt: skip
    try:
        first = podman.check("exec", made, "readlink", "/proc/self/ns/user").strip()
        assert first != host
        script = "readlink /proc/self/ns/user; id -u; touch /tmp/x && echo wrote"
        out = podman.once("--userns", f"container:{made}", IMAGE, "sh", "-c", script)
        assert out.split() == [first, "0", "wrote"]
    finally:
        podman("rm", "--force", "--time", "0", made)


# --- what else is asked of a runtime -------------------------------------------------------------


def test_all_capabilities_but_one_are_dropped(podman: Podman) -> None:
    words = ("--cap-drop", "all", "--cap-add", "NET_BIND_SERVICE")
    out = podman.once(*words, IMAGE, "grep", "Cap", "/proc/self/status")
    sets = {line.split()[0]: int(line.split()[1], 16) for line in out.splitlines()}
    for kind in ("CapEff:", "CapPrm:", "CapBnd:"):
        assert sets[kind] == 1 << 10
    assert sets["CapInh:"] == sets["CapAmb:"] == 0


def test_a_privileged_exec_in_a_container_that_is_not(podman: Podman) -> None:
    made = name()
    podman.check("run", "-d", "--name", made, "--network", "none", IMAGE, *SLEEP)
    script = "grep -E 'CapEff|CapBnd' /proc/self/status"
    try:
        usual = podman.check("exec", made, "sh", "-c", script).split()
        more = podman.check("exec", "--privileged", made, "sh", "-c", script).split()
        assert not int(usual[1], 16) & 1 << 21
        assert int(more[1], 16) & 1 << 21
    finally:
        podman("rm", "--force", "--time", "0", made)


def test_paths_are_masked_and_unmasked_as_asked(podman: Podman) -> None:
    script = "ls /etc | wc -l; head -c 10 /proc/timer_list | wc -c"
    out = podman.once("--security-opt", "mask=/etc", IMAGE, "sh", "-c", script)
    assert out.split() == ["0", "0"]
    script = "grep -c ' /proc/' /proc/self/mountinfo"
    masked = podman.once(IMAGE, "sh", "-c", script)
    whole = podman("run", "--rm", "--network", "none", "--security-opt", "unmask=ALL", IMAGE,
                   "sh", "-c", script)  # fmt: skip
    assert int(masked) > 3
    assert int(whole.stdout) == 0


def test_the_rest_of_the_options_for_a_process(podman: Podman) -> None:
    script = (
        "df -k /dev/shm | tail -n1; umask; pwd; cat /proc/1/comm; cat /proc/sys/net/ipv4/ip_forward"
    )
    out = podman.once("--shm-size", "3m", "--umask", "0027", "--workdir", "/etc", "--init",
                      "--sysctl", "net.ipv4.ip_forward=1", IMAGE, "sh", "-c", script)  # fmt: skip
    shm, umask, cwd, first, forward = out.splitlines()
    assert shm.split()[1] == "3072"
    assert (umask, cwd, forward) == ("0027", "/etc", "1")
    assert first != "sh"


def test_descriptors_that_are_handed_on(podman: Podman) -> None:
    read, write = os.pipe()
    os.write(write, b"handed on\n")
    os.close(write)
    try:
        words = podman.words("run", "--rm", "--network", "none", "--preserve-fds", "1", IMAGE,
                             "sh", "-c", "cat <&3")  # fmt: skip
        script = f'exec 3<&{read}; exec "$@"'
        done = subprocess.run(
            ["bash", "-c", script, "sh", *words], pass_fds=(read,), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, env=podman.environment(),
            cwd=podman.folder, check=False,
        )  # fmt: skip
    finally:
        os.close(read)
    assert done.stdout == "handed on\n", done.stderr


# --- pods ----------------------------------------------------------------------------------------


def test_a_pod_s_life(podman: Podman) -> None:
    pod, one, two = name(), name(), name()
    podman.check("pod", "create", "--name", pod, "--network", "none", "--infra-image", IMAGE,
                 "--infra-command", "/bin/sleep 1000", "--share", "net,ipc,uts,pid",
                 "--hostname", "podded")  # fmt: skip
    try:
        podman.check("run", "-d", "--pod", pod, "--name", one, IMAGE, "sleep", "1111")
        podman.check("run", "-d", "--pod", pod, "--name", two, IMAGE, "sleep", "2222")
        kinds = ("net", "ipc", "uts", "pid")
        pids = [pid_of(podman, container) for container in (one, two)]
        first, second = ([os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds] for pid in pids)
        assert first == second
        assert not set(first) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
        seen = podman.check("exec", one, "ps", "-o", "args")
        assert {"sleep 1111", "sleep 2222", "/bin/sleep 1000"} <= set(seen.splitlines())
        assert podman.check("exec", two, "hostname") == "podded\n"
        podman.check("pod", "kill", "--signal", "KILL", pod)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
        podman.check("pod", "start", pod)
        states = json.loads(podman.check("pod", "inspect", pod))["Containers"]
        assert {state["State"] for state in states} == {"running"}
        podman.check("pod", "stop", "--time", "0", pod)
        states = json.loads(podman.check("pod", "inspect", pod))["Containers"]
        # "stopped" until conmon has told podman the status.
        assert {state["State"] for state in states} <= {"exited", "stopped"}
    finally:
        podman("pod", "rm", "--force", "--time", "0", pod)
    assert podman("pod", "exists", pod).returncode == 1
