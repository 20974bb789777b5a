"""podman's ordinary life on a runtime: each option is seen to have its effect from inside."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers_engines import IMAGE, Podman

MIB = 1 << 20
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


def status_of(podman: Podman, container: str) -> str:
    return podman.check("inspect", "--format", "{{.State.Status}}", container).strip()


def state_of_process(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> str:
    """A file of the cgroup of a process, whichever version holds the controller."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
        if controllers == "" and os.path.exists(f"/sys/fs/cgroup{path}/{v2}"):
            return Path(f"/sys/fs/cgroup{path}/{v2}").read_text().strip()
    raise AssertionError(f"no {controller} here")


@pytest.fixture(scope="module")
def shared(podman: Podman) -> Iterator[Path]:
    """A directory of the host that containers of the user may write to."""
    path = podman.folder / "shared"
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    yield path
    podman("run", "--rm", "--network", "none", "-v", f"{path}:/x", IMAGE, "sh", "-c", "rm -rf /x/*")


@pytest.fixture(scope="module")
def box(podman: Podman, shared: Path) -> Iterator[str]:
    """One container with many options at once, which the tests look into."""
    made = name()
    limits = [] if podman.rootless else ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5"]
    devices = [] if podman.rootless else ["--device", "/dev/loop-control:/dev/given:r"]
    podman.check(
        "run", "-d", "--name", made, "--network", "none", "--hostname", "peer",
        "--read-only", "--tmpfs", "/scratch:size=1m,mode=700",
        "--cap-drop", "CHOWN,KILL", "--cap-add", "SYS_NICE",
        "--sysctl", "kernel.msgmax=12345", "--env", "GIVEN=this", "--workdir", "/tmp",
        "--ulimit", "nofile=321:654", "--ulimit", "nproc=99:999",
        "--oom-score-adj", "300", "--group-add", "4242",
        "--mount", f"type=bind,src={shared},dst=/shared",
        "-v", f"{shared}:/seen:ro", *limits, *devices, IMAGE, *SLEEP,
    )  # fmt: skip
    yield made
    podman("rm", "--force", "--time", "0", made)


def inside(podman: Podman, box: str, script: str) -> str:
    return podman.check("exec", box, "sh", "-c", script)


# --- life ----------------------------------------------------------------------------------------


def test_run_prints_and_ends_with_the_status_of_the_program(podman: Podman) -> None:
    done = podman(
        "run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"
    )
    assert (done.returncode, done.stdout, done.stderr.strip()[-3:]) == (7, "out\n", "err")


def test_run_passes_standard_input_on(podman: Podman) -> None:
    done = podman("run", "--rm", "-i", "--network", "none", IMAGE, "cat", stdin="through\n")
    assert done.stdout == "through\n"


@pytest.mark.parametrize(
    ("command", "status"), [("/not/there", 127), ("missing", 127), ("/etc/passwd", 126)]
)
def test_a_program_that_cannot_run_has_the_status_of_podman(
    podman: Podman, command: str, status: int
) -> None:
    done = podman("run", "--rm", "--network", "none", IMAGE, command)
    assert done.returncode == status, done.stderr


def test_run_on_a_terminal(podman: Podman) -> None:
    script = "stty size; tty; echo ready; read line; echo got $line"
    words = ("run", "--rm", "-it", "--network", "none", IMAGE, "sh", "-c", script)
    shown = podman.on_terminal(*words, typed="typed\n")
    assert shown.splitlines()[:3] == ["33 101", "/dev/pts/0", "ready"]
    assert "got typed" in shown


def test_exec_on_a_terminal(podman: Podman, box: str) -> None:
    # podman tells the size when the program runs already.
    script = "until stty size 2>&-; do sleep 0.05; done; tty; echo ready; read line; echo got $line"
    shown = podman.on_terminal("exec", "-it", box, "sh", "-c", script, typed="typed\n")
    lines = shown.splitlines()
    assert lines[0] == "33 101"
    assert lines[1].startswith("/dev/pts/")
    assert "got typed" in shown


def test_exec_has_its_own_user_directory_environment_and_status(podman: Podman, box: str) -> None:
    script = "id -u; id -g; pwd; echo $EXTRA; exit 9"
    done = podman(
        "exec",
        "--user",
        "12:34",
        "--workdir",
        "/etc",
        "--env",
        "EXTRA=more",
        box,
        "sh",
        "-c",
        script,
    )
    assert (done.returncode, done.stdout.split()) == (9, ["12", "34", "/etc", "more"])


@pytest.mark.parametrize(("command", "status"), [("missing", 127), ("/etc/passwd", 126)])
def test_exec_of_what_cannot_run(podman: Podman, box: str, command: str, status: int) -> None:
    done = podman("exec", box, command)
    assert done.returncode == status, done.stderr


def test_exec_in_the_background(podman: Podman, box: str, shared: Path) -> None:
    podman.check("exec", "-d", box, "sh", "-c", "echo done >/shared/background")
    wait_until((shared / "background").exists)


def test_exec_joins_the_namespaces_of_the_container(podman: Podman, box: str) -> None:
    pid = pid_of(podman, box)
    kinds = ["ipc", "mnt", "net", "pid", "uts"]
    found = inside(
        podman, box, f"cd /proc/self/ns; for n in {' '.join(kinds)}; do readlink $n; done"
    ).split()
    assert found == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]


def test_start_stop_kill_and_rm(podman: Podman, shared: Path) -> None:
    made = name()
    script = (
        "trap 'echo term >/shared/signal; exit 5' TERM; echo up >/shared/up;"
        "while :; do sleep 0.05; done"
    )
    podman.check("create", "--name", made, "--network", "none", "-v", f"{shared}:/shared",
                 IMAGE, "sh", "-c", script)  # fmt: skip
    podman.check("start", made)
    wait_until((shared / "up").exists)
    podman.check("stop", "--time", "10", made)
    assert (shared / "signal").read_text() == "term\n"
    assert podman.check("wait", made).strip() == "5"
    podman.check("start", made)  # a second life of the same container
    pid = pid_of(podman, made)
    podman.check("kill", "--signal", "KILL", made)
    assert podman.check("wait", made).strip() == "137"
    assert not os.path.exists(f"/proc/{pid}")
    podman.check("rm", made)
    assert podman("inspect", made).returncode != 0


def test_pause_stops_the_processes(podman: Podman) -> None:
    if podman.rootless and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        pytest.skip("podman pauses for an ordinary user on cgroup v2 only")
    made = name()
    counting = "while :; do i=$((i+1)); echo $i >/dev/shm/now; sleep 0.01; done"
    podman.check("run", "-d", "--name", made, "--network", "none", IMAGE, "sh", "-c", counting)
    podman.check("pause", made)
    assert status_of(podman, made) == "paused"
    shm = Path(f"/proc/{pid_of(podman, made)}/root/dev/shm/now")
    before = shm.read_text()
    time.sleep(0.1)
    assert shm.read_text() == before
    podman.check("unpause", made)
    wait_until(lambda: shm.read_text() not in (before, ""))
    podman.check("rm", "--force", "--time", "0", made)


def test_logs_and_attach_of_a_container_in_the_background(podman: Podman) -> None:
    made = name()
    podman.check("run", "-d", "--name", made, "--network", "none", IMAGE, "echo", "logged")
    podman.check("wait", made)
    assert podman.check("logs", made) == "logged\n"
    podman.check("rm", made)


def test_top_and_stats_find_the_processes(podman: Podman, box: str) -> None:
    assert "sleep 1000" in podman.check("top", box, "args")


# --- what the options do -------------------------------------------------------------------------


def test_limits(podman: Podman, box: str) -> None:
    if podman.rootless:
        pytest.skip("podman leaves limits out for an ordinary user without a delegated cgroup")
    pid = pid_of(podman, box)
    memory = cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")
    assert int(memory) == 64 * MIB
    assert cgroup_file(pid, "pids", "pids.max", "pids.max") == "50"
    quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]
    assert quota == "50000"


def test_update_changes_limits(podman: Podman) -> None:
    if podman.rootless:
        pytest.skip("podman leaves limits out for an ordinary user without a delegated cgroup")
    made = name()
    podman.check("run", "-d", "--name", made, "--network", "none", "--memory", "64m", IMAGE, *SLEEP)
    podman.check("update", "--memory", "48m", "--cpus", "0.25", made)
    pid = pid_of(podman, made)
    assert int(cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")) == 48 * MIB
    assert cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"
    podman.check("rm", "--force", "--time", "0", made)


def test_memory_is_bounded(podman: Podman) -> None:
    if podman.rootless:
        pytest.skip("podman leaves limits out for an ordinary user without a delegated cgroup")
    eat = "head -c 100m /dev/zero | tail >/dev/null; echo $?"
    out = podman.once("--memory", "20m", "--memory-swap", "20m", IMAGE, "sh", "-c", eat)
    assert out == "137\n"


def test_forks_are_bounded(podman: Podman) -> None:
    if podman.rootless:
        pytest.skip("podman leaves limits out for an ordinary user without a delegated cgroup")
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all"
    done = podman(
        "run", "--rm", "--network", "none", "--pids-limit", "5", IMAGE, "sh", "-c", script
    )
    assert "can't fork" in done.stderr
    assert "all" not in done.stdout


def test_capabilities(podman: Podman, box: str) -> None:
    lines = inside(podman, box, "grep Cap /proc/1/status").splitlines()
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in lines}
    assert not sets["CapEff"] & (1 << 0 | 1 << 5)  # CHOWN, KILL
    assert sets["CapEff"] & 1 << 23  # SYS_NICE
    assert sets["CapEff"] == sets["CapBnd"] == sets["CapPrm"]
    done = podman("exec", box, "chown", "1:1", "/scratch")
    assert "Operation not permitted" in done.stderr


def test_exec_has_the_capabilities_of_the_container(podman: Podman, box: str) -> None:
    first = inside(podman, box, "grep CapEff /proc/1/status")
    assert inside(podman, box, "grep CapEff /proc/self/status") == first


def test_a_user_other_than_root_has_no_capabilities(podman: Podman) -> None:
    out = podman.once("--user", "1000", IMAGE, "grep", "-E", "Uid|CapEff", "/proc/self/status")
    assert out.split()[1] == "1000"
    assert out.split()[-1] == "0" * 16


def test_the_root_file_system_is_read_only(podman: Podman, box: str) -> None:
    done = podman("exec", box, "touch", "/bin/new")
    assert "Read-only file system" in done.stderr


def test_tmpfs(podman: Podman, box: str) -> None:
    out = inside(podman, box, "grep ' /scratch ' /proc/mounts; stat -c %a /scratch")
    assert out.startswith("tmpfs /scratch tmpfs rw")
    assert "size=1024k" in out
    assert out.split()[-1] == "700"


def test_sysctl_hostname_environment_and_directory(podman: Podman, box: str) -> None:
    script = "cat /proc/sys/kernel/msgmax; hostname; echo $GIVEN; pwd"
    assert inside(podman, box, script).split() == ["12345", "peer", "this", "/tmp"]


def test_limits_of_the_process(podman: Podman, box: str) -> None:
    script = "grep 'open files' /proc/1/limits; cat /proc/1/oom_score_adj"
    *limits, score = inside(podman, box, script).split()
    assert limits == ["Max", "open", "files", "321", "654", "files"]
    assert int(score) >= 300
    assert "4242" in inside(podman, box, "grep Groups /proc/1/status").split()


def test_a_bind_mount_is_the_directory_of_the_host(podman: Podman, box: str, shared: Path) -> None:
    inside(podman, box, "echo hello >/shared/from-inside")
    assert (shared / "from-inside").read_text() == "hello\n"
    done = podman("exec", box, "touch", "/seen/no")
    assert "Read-only file system" in done.stderr


def test_a_device_of_the_host(podman: Podman, box: str) -> None:
    if podman.rootless:
        script = "mount | grep /dev/full; echo >/dev/full"
        done = podman("run", "--rm", "--network", "none", "--device", "/dev/full", IMAGE,
                      "sh", "-c", script)  # fmt: skip
        assert "on /dev/full " in done.stdout
        assert "No space left" in done.stderr
        return
    number = os.stat("/dev/loop-control").st_rdev
    out = inside(podman, box, "stat -c '%F %t %T' /dev/given").strip()
    assert out == f"character special file {os.major(number):x} {os.minor(number):x}"
    assert inside(podman, box, "head -c0 /dev/given && echo opened") == "opened\n"
    done = podman("exec", box, "sh", "-c", "echo >/dev/given")  # it was given for reading
    assert "Operation not permitted" in done.stderr


def test_a_device_that_was_not_given_cannot_be_opened(podman: Podman) -> None:
    if podman.rootless:
        pytest.skip("an ordinary user's container makes no devices")
    script = "mknod /tmp/mem c 1 1; head -c1 /tmp/mem"
    done = podman("run", "--rm", "--network", "none", "--cap-add", "MKNOD,SYS_RAWIO", IMAGE,
                  "sh", "-c", script)  # fmt: skip
    assert "Operation not permitted" in done.stderr


def test_paths_of_proc_are_masked(podman: Podman, box: str) -> None:
    assert inside(podman, box, "head -c 10 /proc/timer_list | wc -c").strip() == "0"
    done = podman("exec", box, "sh", "-c", "echo 1 >/proc/sys/kernel/panic")
    assert "Read-only file system" in done.stderr


def test_privileged(podman: Podman) -> None:
    script = "grep -E 'CapEff|Seccomp:' /proc/self/status; head -c 10 /proc/timer_list | wc -c"
    words = podman.once("--privileged", IMAGE, "sh", "-c", script).split()
    assert int(words[1], 16) & 1 << 21  # SYS_ADMIN
    assert words[3] == "0"


# --- seccomp -------------------------------------------------------------------------------------


def test_the_default_seccomp_profile_is_loaded(podman: Podman, box: str) -> None:
    out = inside(podman, box, "grep Seccomp: /proc/1/status /proc/self/status")
    assert [line.split()[-1] for line in out.splitlines()] == ["2", "2"]


def test_a_seccomp_profile_of_a_file(podman: Podman) -> None:
    profile = podman.folder / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    profile.chmod(0o644)
    script = "mkdir /tmp/x; touch /tmp/y && echo touched"
    done = podman("run", "--rm", "--network", "none", "--security-opt", f"seccomp={profile}",
                  IMAGE, "sh", "-c", script)  # fmt: skip
    assert done.stdout == "touched\n"
    assert "Operation not supported" in done.stderr


def test_no_seccomp_and_no_new_privileges(podman: Podman) -> None:
    script = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status"
    out = podman.once("--security-opt", "seccomp=unconfined", "--security-opt",
                      "no-new-privileges", IMAGE, "sh", "-c", script)  # fmt: skip
    assert out.split() == ["NoNewPrivs:", "1", "Seccomp:", "0"]


# --- mounts --------------------------------------------------------------------------------------


def test_options_of_bind_mounts(podman: Podman, shared: Path) -> None:
    line = podman.once("-v", f"{shared}:/x:ro,noexec,nosuid,nodev", IMAGE,
                       "grep", " /x ", "/proc/self/mountinfo")  # fmt: skip
    options = line.split()[5].split(",")
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options)


def test_a_named_volume_takes_what_the_image_has(podman: Podman) -> None:
    volume = name()
    assert "passwd" in podman.once("-v", f"{volume}:/etc", IMAGE, "ls", "/etc").split()
    podman.check("volume", "rm", volume)


# --- namespaces ----------------------------------------------------------------------------------


def test_a_user_namespace_with_maps(podman: Podman) -> None:
    maps = ["--uidmap", "0:1:1000", "--gidmap", "0:1:1000"]
    if not podman.rootless:
        maps = ["--uidmap", "0:700000:1000", "--gidmap", "0:700000:1000"]
    out = podman.once(*maps, IMAGE, "sh", "-c", "cat /proc/self/uid_map; stat -c %u /bin; id -u")
    first = out.splitlines()[0].split()
    assert (first[0], first[2]) == ("0", "1000")
    assert out.split()[-2:] == ["0", "0"]


def test_keep_id(podman: Podman) -> None:
    if not podman.rootless:
        pytest.skip("--userns=keep-id is for ordinary users")
    assert podman.user is not None
    out = podman.once("--userns", "keep-id", IMAGE, "id", "-u")
    uid = subprocess.run(["id", "-u", podman.user], capture_output=True, text=True, check=True)
    assert out == uid.stdout


def test_the_uts_namespace_of_the_host(podman: Podman) -> None:
    out = podman.once("--uts", "host", IMAGE, "readlink", "/proc/self/ns/uts")
    assert out.strip() == os.readlink("/proc/self/ns/uts")


def test_the_pid_namespace_of_the_host(podman: Podman) -> None:
    out = podman.once("--pid", "host", IMAGE, "readlink", "/proc/self/ns/pid")
    assert out.strip() == os.readlink("/proc/self/ns/pid")


def test_the_namespaces_of_another_container(podman: Podman, box: str) -> None:
    pid = pid_of(podman, box)
    script = "readlink /proc/self/ns/net; cat /proc/1/comm"
    other = f"container:{box}"
    out = podman.check("run", "--rm", "--network", other, "--pid", other, IMAGE, "sh", "-c", script)
    assert out.split() == [os.readlink(f"/proc/{pid}/ns/net"), "sleep"]


# --- more than one container ---------------------------------------------------------------------


def test_a_pod_shares_its_namespaces(podman: Podman) -> None:
    pod = name()
    podman.check("pod", "create", "--name", pod, "--network", "none", "--infra-image", IMAGE,
                 "--infra-command", "/bin/sleep 1000", "--hostname", "podded")  # fmt: skip
    try:
        script = "readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts; hostname"
        first = podman.check("run", "--rm", "--pod", pod, IMAGE, "sh", "-c", script)
        second = podman.check("run", "--rm", "--pod", pod, IMAGE, "sh", "-c", script)
        assert first == second
        assert first.split()[-1] == "podded"
        assert first.split()[0] != os.readlink("/proc/self/ns/net")
    finally:
        podman("pod", "rm", "--force", "--time", "0", pod)


def test_a_healthcheck(podman: Podman) -> None:
    made = name()
    podman.check("run", "-d", "--name", made, "--network", "none", "--health-cmd",
                 "test -e /tmp/well", "--health-interval", "disable", IMAGE, *SLEEP)  # fmt: skip
    assert podman("healthcheck", "run", made).returncode == 1
    podman.check("exec", made, "touch", "/tmp/well")
    assert podman("healthcheck", "run", made).returncode == 0
    podman.check("rm", "--force", "--time", "0", made)


def test_build_runs_its_steps_on_the_runtime(podman: Podman) -> None:
    context = podman.folder / f"context-{podman.runtime}"
    context.mkdir(exist_ok=True)
    lines = [f"FROM {IMAGE}", "RUN id -u >/made && mkdir /dir", "RUN cat /made >>/dir/again"]
    (context / "Containerfile").write_text("\n".join(lines) + "\n")
    (context / "Containerfile").chmod(0o644)
    context.chmod(0o755)
    tag = f"localhost/peers/{name()}"
    podman.check("--runtime", podman.path, "build", "--network", "none", "--isolation", "oci",
                 "--tag", tag, str(context))  # fmt: skip
    assert podman.once(tag, "cat", "/made", "/dir/again").split() == ["0", "0"]
    podman.check("rmi", tag)


def test_buildah_runs_a_command(podman: Podman) -> None:
    made = name()
    podman.check("from", "--name", made, IMAGE, engine="buildah")
    script = "id -u; cat /proc/self/comm; grep CapEff /proc/self/status; exit 3"
    done = podman("run", "--runtime", podman.path, "--isolation", "oci", "--network", "none",
                  made, "sh", "-c", script, engine="buildah")  # fmt: skip
    podman.check("rm", made, engine="buildah")
    assert done.returncode == 3, done.stderr
    assert done.stdout.split()[:2] == ["0", "cat"]


def test_default_limits_of_podman_do_not_stop_a_container(podman: Podman) -> None:
    """They are above what a user, or root without CAP_SYS_RESOURCE, may set; runc gives up."""
    if podman.runtime == "runc":
        pytest.skip("runc refuses what it may not set")
    out = podman.once("--ulimit", "nofile=1048576:1048576", IMAGE, "sh", "-c", "ulimit -Hn")
    assert 0 < int(out) <= 1048576


def test_nothing_is_left(podman: Podman) -> None:
    """Run last: the runtime keeps no state of containers that are gone."""
    found = podman.check("ps", "--all", "--format", "{{.Names}} {{.Status}}").splitlines()
    assert all("Up" in line for line in found)  # the shared container alone
