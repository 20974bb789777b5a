"""The process of a configuration and its devices, as the kernel shows them."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, host_pids

SLEEP = ("sleep", "1000")
NAME = f"config-{os.getpid()}"
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_LINES = {
    "bounding": "CapBnd",
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "ambient": "CapAmb",
}


def process(**changes: Any) -> Any:
    """Change the process of a configuration; `linux` its key of that name."""

    def change(config: dict[str, Any]) -> None:
        config["linux"].update(changes.pop("linux", {}))
        config["process"].update(changes)

    return change


def say(runtime: Runtime, script: str, change: Any) -> str:
    runtime.config("sh", "-c", script, change=change)
    return runtime.call("run", NAME).stdout


def warned(runtime: Runtime, *args: str, change: Any) -> tuple[str, str]:
    """What a container says, and what the runtime's log says of it."""
    log = runtime.home / "log"
    runtime.config(*args, change=change)
    done = runtime.call("--log", str(log), "run", NAME)
    return done.stdout, log.read_text()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def running(runtime: Runtime, change: Any) -> int:
    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    return runtime.pid(NAME)


def test_the_five_sets_are_just_what_is_asked_for(both: Runtime) -> None:
    names = {
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_NET_RAW"],
        "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_NET_RAW"],
    }
    # A program of user 0 would get all of the bounding set by its exec; another one shows the sets.
    ids = {"uid": 0, "gid": 0} if both.user else {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
    found = status_of(running(both, process(capabilities=names, user=ids)))
    bits = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETUID": 7, "CAP_NET_RAW": 13}
    masks = {name: sum(1 << bits[cap] for cap in caps) for name, caps in names.items()}
    assert int(found["CapBnd"], 16) == masks["bounding"]
    assert int(found["CapInh"], 16) == masks["inheritable"]
    if both.user:
        # Its exec may not add to what it has: no_new_privs.
        assert int(found["CapPrm"], 16) == masks["permitted"]
    else:
        # capabilities(7): a program without file capabilities keeps the ambient set.
        for name in ("permitted", "effective", "ambient"):
            assert int(found[_LINES[name]], 16) == masks["ambient"]
        assert found["Uid"].split() == ["7"] * 4
        assert found["Gid"].split() == ["8"] * 4
        assert found["Groups"].split() == ["9", "10"]


def test_no_capability_is_kept_where_none_is_named(runtime: Runtime) -> None:
    found = status_of(running(runtime, lambda config: config["process"].pop("capabilities")))
    assert {int(found[line], 16) for line in _LINES.values()} == {0}


def test_an_unknown_capability_is_a_warning(runtime: Runtime) -> None:
    sets = {name: ["CAP_KILL", "CAP_FLY"] for name in ("bounding", "effective", "permitted")}
    command = ("grep", "CapBnd", "/proc/self/status")
    said, log = warned(runtime, *command, change=process(capabilities=sets))
    assert said.split() == ["CapBnd:", "0000000000000020"]
    assert "CAP_FLY" in log


def test_warnings_are_told_in_the_log_or_before_the_program_s_own_words(runtime: Runtime) -> None:
    sets = {name: ["CAP_KILL", "CAP_FLY"] for name in ("bounding", "effective", "permitted")}
    runtime.config("sh", "-c", "echo error >&2", change=process(capabilities=sets))
    done = runtime.call("run", NAME)
    warning, error = done.stderr.splitlines()
    assert warning.startswith("ctrt-runtime: warning: the capability CAP_FLY is left out")
    assert error == "error"
    log = runtime.home / "log"
    assert runtime.call("--log", str(log), "run", NAME).stderr == "error\n"
    assert "level=warning" in log.read_text()
    assert runtime.call("--log-level", "error", "run", NAME).stderr == "error\n"


def test_processes_that_nothing_tells_from_the_caller_s_are_a_warning(runtime: Runtime) -> None:
    words = "strongly discouraged"
    runtime.config("true", change=host_pids)
    assert words in runtime.call("--cgroup-manager", "disabled", "run", NAME).stderr
    assert words not in runtime.call("run", NAME).stderr
    runtime.config("true")
    assert words not in runtime.call("--cgroup-manager", "disabled", "run", NAME).stderr


@pytest.mark.parametrize("value", [True, False])
def test_no_new_privileges(both: Runtime, value: bool) -> None:
    found = status_of(running(both, process(noNewPrivileges=value)))
    assert found["NoNewPrivs"] == str(int(value))


def test_limits(both: Runtime) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 1000 if hard == -1 else min(hard, 1000)},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 22},
    ]
    pid = running(both, process(rlimits=limits))
    found = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
    }
    assert found["Max open files"] == ["100", "200"]
    assert found["Max core file size"][0] == "0"
    assert found["Max stack size"] == [str(1 << 20), str(1 << 22)]


def test_a_limit_above_the_caller_s_is_lowered_with_a_word(rootless: Runtime) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = [{"type": "RLIMIT_NOFILE", "soft": most + 5, "hard": most + 10}]
    command = ("sh", "-c", "ulimit -Sn; ulimit -Hn")
    said, log = warned(rootless, *command, change=process(rlimits=limits))
    assert said.split() == [str(most)] * 2
    assert f"the limit RLIMIT_NOFILE is {most} instead of {most + 10}" in log


def test_the_out_of_memory_score(both: Runtime) -> None:
    pid = running(both, process(oomScoreAdj=321))
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "321\n"


def test_an_out_of_memory_score_below_the_caller_s_is_raised_with_a_word(
    rootless: Runtime,
) -> None:
    command = ("cat", "/proc/self/oom_score_adj")
    said, log = warned(rootless, *command, change=process(oomScoreAdj=-500))
    assert said == Path("/proc/self/oom_score_adj").read_text()
    assert "oomScoreAdj" in log


def test_umask_directory_and_environment(both: Runtime) -> None:
    change = process(user={"uid": 0, "gid": 0, "umask": 0o27}, cwd="/usr/made/here")
    said = say(both, "umask; pwd; env", change)
    assert said.splitlines()[:2] == ["0027", "/usr/made/here"]
    assert set(said.splitlines()[2:]) <= {
        *("PATH=/bin:/sbin:/usr/bin:/usr/sbin", "TERM=xterm", "PWD=/usr/made/here", "SHLVL=1"),
        "HOME=/root",
    }
    subprocess.run(["rm", "-rf", both.rootfs / "usr" / "made"], check=True)
    assert say(both, "umask", process()) == "0022\n"


def test_scheduling(runtime: Runtime) -> None:
    pid = running(
        runtime,
        process(
            scheduler={"policy": "SCHED_BATCH", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6},
        ),
    )
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    shown = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "best-effort: prio 6"


def test_a_real_time_policy(runtime: Runtime) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("this machine's limits do not allow real-time policies")
    pid = running(runtime, process(scheduler={"policy": "SCHED_FIFO", "priority": 3}))
    assert os.sched_getscheduler(pid) == os.SCHED_FIFO
    assert os.sched_getparam(pid).sched_priority == 3


def test_personality(runtime: Runtime) -> None:
    pid = running(runtime, process(linux={"personality": {"domain": "LINUX32"}}))
    assert Path(f"/proc/{pid}/personality").read_text() == "00000008\n"
    runtime.call("delete", "--force", NAME)
    assert say(runtime, "uname -m", process(linux={"personality": {"domain": "LINUX32"}})) in (
        "i686\n",
        "armv8l\n",
    )


def test_memory_policy(runtime: Runtime) -> None:
    policy = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    try:
        pid = running(runtime, process(linux={"memoryPolicy": policy}))
    except AssertionError as error:
        if "Function not implemented" in str(error):
            pytest.skip("this kernel has no NUMA")
        raise
    assert " bind" in Path(f"/proc/{pid}/numa_maps").read_text()


@pytest.mark.parametrize("option", ["--no-new-keyring", ""])
def test_the_session_keyring(runtime: Runtime, option: str) -> None:
    runtime.config("cat", "/proc/keys", change=lambda c: c["linux"]["maskedPaths"].clear())
    name = f"{NAME}{option}"  # the kernel keeps one that nobody has for a moment
    words = ["run", *([option] if option else []), name]
    keys = runtime.call(*words).stdout
    fresh = [line for line in keys.splitlines() if " keyring " in line and f"_ses.{name}:" in line]
    assert bool(fresh) == (not option)


def test_labels_that_this_kernel_cannot_give(runtime: Runtime) -> None:
    cases = []
    if not os.path.exists("/sys/module/apparmor"):
        cases.append((process(apparmorProfile="box"), "apparmor not supported"))
    if not os.path.exists("/sys/fs/selinux/enforce"):
        words = "selinux is disabled or not supported"
        cases.append((process(selinuxLabel="a:b:c:s0"), words))
        cases.append((process(linux={"mountLabel": "a:b:c:s0"}), words))
    for change, words in cases:
        runtime.config("true", change=change)
        done = runtime.call("run", NAME, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert words in line


def test_resource_director_technology_is_refused(runtime: Runtime) -> None:
    runtime.config("true", change=process(linux={"intelRdt": {"closID": "box"}}))
    done = runtime.call("run", NAME, check=False)
    assert "linux.intelRdt" in done.stderr


def test_nothing_is_left_of_the_runtime_in_the_process(both: Runtime) -> None:
    pid = running(both, process())
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    found = status_of(pid)
    assert found["SigBlk"] == found["SigIgn"] == "0" * 16
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid


# --- exec -----------------------------------------------------------------------------------------


def test_another_process_has_a_character_of_its_own(runtime: Runtime) -> None:
    pid = running(runtime, process(oomScoreAdj=5))
    document = {
        "args": ["sleep", "1002"],
        "env": ["PATH=/bin"],
        "cwd": "/tmp",
        "user": {"uid": 33, "gid": 44, "additionalGids": [5, 6], "umask": 0o77},
        "capabilities": {name: ["CAP_KILL"] for name in SETS},
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "oomScoreAdj": 77,
        "scheduler": {"policy": "SCHED_IDLE"},
        "execCPUAffinity": {"initial": "0", "final": "1"},
    }
    if (os.cpu_count() or 1) < 2:
        document["execCPUAffinity"] = {"final": "0"}
    file = runtime.home / "process.json"
    file.write_text(json.dumps(document))
    pid_file = runtime.home / "pid"
    words = ("exec", "--detach", "--process", str(file), "--pid-file", str(pid_file), NAME)
    runtime.quiet(*words)
    other = int(pid_file.read_text())
    found = status_of(other)
    assert found["Uid"].split() == ["33"] * 4
    assert found["Gid"].split() == ["44"] * 4
    assert found["Groups"].split() == ["5", "6"]
    assert {int(found[line], 16) for line in _LINES.values()} == {1 << 5}
    assert (found["NoNewPrivs"], found["Umask"]) == ("1", "0077")
    assert found["Cpus_allowed_list"] == document["execCPUAffinity"]["final"]
    assert os.sched_getscheduler(other) == os.SCHED_IDLE
    assert Path(f"/proc/{other}/oom_score_adj").read_text() == "77\n"
    assert os.readlink(f"/proc/{other}/cwd") == "/tmp"
    assert "10                   20" in Path(f"/proc/{other}/limits").read_text()
    assert Path(f"/proc/{other}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()
    links = {kind: os.readlink(f"/proc/{other}/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    assert links == {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in links}


# --- devices --------------------------------------------------------------------------------------

DEFAULT = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}


def test_the_default_devices_and_links(both: Runtime) -> None:
    pid = running(both, process())
    dev = Path(f"/proc/{pid}/root/dev")
    for name, number in {**DEFAULT, "tty": (5, 0)}.items():
        found = (dev / name).stat()
        assert stat.S_ISCHR(found.st_mode)
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == number
        assert found.st_mode & 0o777 == 0o666
    links = {name: os.readlink(dev / name) for name in ("fd", "stdin", "stdout", "stderr", "ptmx")}
    assert links == {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }
    done = both.call("exec", NAME, "sh", "-c", "echo x > /dev/null; head -c 2 /dev/zero | wc -c")
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_the_terminals_multiplexer_is_the_container_s_own_whatever_is_listed(both: Runtime) -> None:
    """config-linux.md, Default Devices: /dev/ptmx is a link to that of /dev/pts."""
    node = {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
    pid = running(both, lambda config: config["linux"].update(devices=[node]))
    assert os.readlink(f"/proc/{pid}/root/dev/ptmx") == "pts/ptmx"


def test_devices_of_the_configuration(runtime: Runtime) -> None:
    devices = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "gid": 5},
        {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 0, "uid": 3},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o604},
    ]
    pid = running(runtime, process(linux={"devices": devices}))
    dev = Path(f"/proc/{pid}/root/dev")
    found = (dev / "fuse").stat()
    assert found.st_rdev == os.makedev(10, 229)
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o020640, 0, 5)
    found = (dev / "deep/block").stat()
    assert found.st_rdev == os.makedev(7, 0)
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o060666, 3, 0)
    assert (dev / "pipe").stat().st_mode == 0o010600
    assert (dev / "null").stat().st_mode == 0o020604


def test_devices_are_the_host_s_where_none_can_be_made(rootless: Runtime) -> None:
    devices = [
        {"path": "/dev/full", "type": "c", "major": 1, "minor": 7},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    pid = running(rootless, process(linux={"devices": devices}))
    done = rootless.call("exec", NAME, "sh", "-c", "stat -c '%t:%T %f' /dev/full /dev/pipe")
    assert done.stdout.splitlines() == ["1:7 21b6", "0:0 1180"]
    points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert points.count("/dev/full") == 1


def test_a_bind_mounted_dev_is_left_as_it_is(runtime: Runtime) -> None:
    own = runtime.home / "dev"
    own.mkdir()

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [
            entry for entry in config["mounts"] if not entry["destination"].startswith("/dev")
        ]
        config["mounts"].append(
            {"destination": "/dev", "type": "bind", "source": str(own), "options": ["bind"]}
        )

    running(runtime, change)
    assert os.listdir(own) == []


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_the_user_may_open_the_standard_streams_anew(runtime: Runtime, verb: str) -> None:
    """They are pipes of root's, and /dev/stdout is opened like any other file."""
    script = ("sh", "-c", "cat < /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr")

    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    runtime.config(*(script if verb == "run" else ("sleep", "1000")), change=change)
    if verb == "run":
        done = runtime.call("run", NAME, stdin="in\n")
    else:
        runtime.quiet("run", "--detach", NAME)
        done = runtime.call("exec", "--user", "1000:1000", NAME, *script, stdin="in\n")
    assert (done.stdout, done.stderr) == ("in\nout\n", "err\n")
