"""Properties of the process, each seen from inside and from outside of the container."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, until
from property_tools import answers, compiled_probe, give_probe, refusal, seen, status_of

NAME = f"property-process-{os.getpid()}"
SLEEP = ("sleep", "1000")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def probe(place: Path) -> Path:
    directory = place / "process-probe"
    directory.mkdir()
    return compiled_probe(directory)


def process(**changes: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["process"].update(changes)

    return change


def started(runtime: Runtime, change: Change, program: Path | None = None) -> int:
    """The pid of a container that sleeps."""

    def both_changes(config: dict[str, Any]) -> None:
        change(config)
        if program:
            give_probe(config, program)

    runtime.config(*SLEEP, change=both_changes)
    runtime.quiet("run", "--detach", NAME)
    return runtime.pid(NAME)


def told(runtime: Runtime, program: Path, change: Change) -> dict[str, list[str]]:
    """What a container's own program is told by the kernel."""

    def both_changes(config: dict[str, Any]) -> None:
        change(config)
        give_probe(config, program)

    runtime.config("/tmp/probe", change=both_changes)
    return answers(runtime.call("run", NAME).stdout)


def test_every_kind_of_limit_is_set(both: Runtime) -> None:
    shown = {
        "AS": "Max address space",
        "CORE": "Max core file size",
        "CPU": "Max cpu time",
        "DATA": "Max data size",
        "FSIZE": "Max file size",
        "LOCKS": "Max file locks",
        "MEMLOCK": "Max locked memory",
        "MSGQUEUE": "Max msgqueue size",
        "NICE": "Max nice priority",
        "NOFILE": "Max open files",
        "NPROC": "Max processes",
        "RSS": "Max resident set",
        "RTPRIO": "Max realtime priority",
        "RTTIME": "Max realtime timeout",
        "SIGPENDING": "Max pending signals",
        "STACK": "Max stack size",
    }
    wanted = {}
    for number, name in enumerate(sorted(shown)):
        # LOCKS has no name in the module: it is 10, getrlimit(2).
        most = resource.getrlimit(getattr(resource, f"RLIMIT_{name}", 10))[1]
        hard = (1 << 30) + number if most == -1 else min(most, (1 << 30) + number)
        wanted[name] = (hard - 1 if hard else 0, hard)
    limits = [
        {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard}
        for name, (soft, hard) in wanted.items()
    ]
    pid = started(both, process(rlimits=limits))
    inside = both.call("exec", NAME, "cat", "/proc/1/limits").stdout
    for text in (Path(f"/proc/{pid}/limits").read_text(), inside):
        found = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
        assert {name: found[words] for name, words in shown.items()} == {
            name: [str(soft), str(hard)] for name, (soft, hard) in wanted.items()
        }


@pytest.mark.parametrize(
    ("io_class", "number"), [("RT", 1), ("BE", 2), ("IDLE", 3)], ids=["rt", "be", "idle"]
)
def test_priority_of_input_and_output(
    runtime: Runtime, probe: Path, io_class: str, number: int
) -> None:
    level = 0 if io_class == "IDLE" else 5
    change = process(ioPriority={"class": f"IOPRIO_CLASS_{io_class}", "priority": level})
    pid, inside = seen(runtime, NAME, probe, change)
    assert inside["io"] == [str(number), str(level)]
    shown = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
    words = {"RT": "realtime: prio 5", "BE": "best-effort: prio 5", "IDLE": "idle"}
    assert shown.stdout.strip() == words[io_class]


def test_priority_of_input_and_output_of_an_ordinary_user(rootless: Runtime, probe: Path) -> None:
    change = process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 7})
    assert told(rootless, probe, change)["io"] == ["2", "7"]


MILLISECOND = 1_000_000


def test_scheduling_by_deadline(runtime: Runtime, probe: Path) -> None:
    """sched(7): runtime <= deadline <= period, in nanoseconds."""
    times = (2 * MILLISECOND, 50 * MILLISECOND, 100 * MILLISECOND)
    change = process(
        scheduler={
            "policy": "SCHED_DEADLINE",
            **dict(zip(("runtime", "deadline", "period"), times, strict=True)),
            "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"],
        }
    )
    policy, flags, _, _, *found = told(runtime, probe, change)["scheduler"]
    assert (policy, int(flags)) == ("6", 0x02 | 0x04)
    assert tuple(map(int, found)) == times
    pid = started(runtime, change)
    shown = subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert "SCHED_DEADLINE" in shown.stdout
    assert "/".join(map(str, times)) in shown.stdout


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor only")
def test_scheduling_by_deadline_needs_all_processors(runtime: Runtime) -> None:
    """sched_setattr(2), EPERM: told in the words of runc."""
    policy = {"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 10**6, "period": 10**6}
    words = "process scheduler can't be used together with AllowedCPUs"
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", NAME)
    document = json.loads((runtime.bundle / "config.json").read_text())["process"]
    document.update(scheduler=policy, execCPUAffinity={"initial": "0"})
    (runtime.home / "process.json").write_text(json.dumps(document))
    path = str(runtime.home / "process.json")
    done = runtime.call("exec", "--process", path, NAME, check=False)
    assert (done.returncode, words in done.stderr) == (255, True), done.stderr
    runtime.call("delete", "--force", NAME)

    def change(config: dict[str, Any]) -> None:
        config["process"]["scheduler"] = policy
        config["linux"].setdefault("resources", {})["cpu"] = {"cpus": "0"}

    runtime.config("true", change=change)
    assert words in refusal(runtime, NAME)


@pytest.mark.parametrize(("policy", "nice"), [("OTHER", 4), ("BATCH", 6), ("IDLE", 0)])
def test_scheduling_of_an_ordinary_user(
    rootless: Runtime, probe: Path, policy: str, nice: int
) -> None:
    change = process(
        scheduler={
            "policy": f"SCHED_{policy}",
            "nice": nice,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        }
    )
    number = {"OTHER": os.SCHED_OTHER, "BATCH": os.SCHED_BATCH, "IDLE": os.SCHED_IDLE}[policy]
    found = told(rootless, probe, change)["scheduler"]
    assert found[:3] == [str(number), "1", str(nice)]
    pid = started(rootless, change)
    assert os.sched_getscheduler(pid) == number | os.SCHED_RESET_ON_FORK
    assert os.getpriority(os.PRIO_PROCESS, pid) == nice


def test_a_real_time_policy_has_its_priority_inside_too(runtime: Runtime, probe: Path) -> None:
    change = process(scheduler={"policy": "SCHED_RR", "priority": 7})
    pid, inside = seen(runtime, NAME, probe, change)
    assert inside["scheduler"][:4] == ["2", "0", "0", "7"]
    assert (os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority) == (2, 7)


def test_a_priority_that_the_caller_may_not_give_names_the_call(rootless: Runtime) -> None:
    rootless.config("true", change=process(scheduler={"policy": "SCHED_OTHER", "nice": -5}))
    words = refusal(rootless, NAME)
    assert '"limits and priorities"' in words
    assert "sched_setattr" in words
    assert "Operation not permitted" in words


@pytest.mark.parametrize("which", ["initial", "final"])
def test_processors_of_an_exec(both: Runtime, which: str) -> None:
    pid = started(both, process())
    last = str((os.cpu_count() or 1) - 1)
    document = {"args": ["sleep", "1001"], "cwd": "/", "env": ["PATH=/bin"]}
    document["execCPUAffinity"] = {which: last}
    file = both.home / "process.json"
    file.write_text(json.dumps(document))
    both.quiet("exec", "-d", "--process", str(file), "--pid-file", str(both.home / "pid"), NAME)
    other = int((both.home / "pid").read_text())
    assert status_of(other)["Cpus_allowed_list"] == last
    assert os.sched_getaffinity(other) == {int(last)}
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0), "the container's own has all"
    document["args"] = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    file.write_text(json.dumps(document))
    assert both.call("exec", "--process", str(file), NAME).stdout.split()[1] == last


def test_processors_of_the_configuration_are_for_exec_alone(both: Runtime) -> None:
    last = str((os.cpu_count() or 1) - 1)
    pid = started(both, process(execCPUAffinity={"initial": "0", "final": last}))
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    said = both.call("exec", NAME, "grep", "Cpus_allowed_list", "/proc/self/status").stdout
    assert said.split()[1] == last


def test_processors_of_an_exec_that_are_not_there_are_named(runtime: Runtime) -> None:
    started(runtime, process())
    document = {"args": ["true"], "cwd": "/", "execCPUAffinity": {"final": "4090"}}
    file = runtime.home / "process.json"
    file.write_text(json.dumps(document))
    done = runtime.call("exec", "--process", str(file), NAME, check=False)
    assert done.returncode == 255
    assert "sched_setaffinity" in done.stderr
    document["execCPUAffinity"] = {"initial": "one"}
    file.write_text(json.dumps(document))
    done = runtime.call("exec", "--process", str(file), NAME, check=False)
    assert 'execCPUAffinity.initial is "one"' in done.stderr


def test_capabilities_of_root_and_of_another_user_inside(runtime: Runtime) -> None:
    """What is ambient is effective after the exec of another user, too: capabilities(7)."""
    names = ["CAP_NET_RAW", "CAP_CHOWN"]
    kept = 1 << 13 | 1 << 0
    sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), names)
    pid = started(runtime, process(capabilities=sets, user={"uid": 7, "gid": 8}))
    inside = runtime.call("exec", NAME, "cat", "/proc/1/status").stdout
    for text in (Path(f"/proc/{pid}/status").read_text(), inside):
        found = {line[:6]: int(line[7:], 16) for line in text.splitlines() if line[:3] == "Cap"}
        assert found == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), kept)


def test_groups_that_cannot_be_had_are_left_out_with_a_word(rootless: Runtime) -> None:
    """user_namespaces(7): who maps a single id may not call setgroups(2)."""
    log = rootless.home / "log"
    rootless.config(*SLEEP, change=process(user={"uid": 0, "gid": 0, "additionalGids": [7]}))
    rootless.quiet("--log", str(log), "run", "--detach", NAME)
    assert "additionalGids are left out: setgroups(2) is denied" in log.read_text()
    pid = rootless.pid(NAME)
    assert Path(f"/proc/{pid}/setgroups").read_text() == "deny\n"
    assert status_of(pid)["Groups"] == ""
    assert rootless.call("exec", NAME, "id", "-G").stdout == "0\n"


def test_what_is_windows_own_is_ignored(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["commandLine"] = "cmd /c exit 3"
        config["process"]["user"]["username"] = "nobody-of-that-name"

    pid = started(both, change)
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0"
    assert both.call("exec", NAME, "id", "-u").stdout == "0\n"


# --- keyrings -------------------------------------------------------------------------------------

# Joins a session keyring of a name of its own, tells its number, and becomes the runtime.
_IN_KEYRING = """
import ctypes, os, sys
keyctl = ctypes.CDLL(None).syscall
serial = keyctl(250, 1, sys.argv[1].encode())
with open(sys.argv[2], "w") as file:
    file.write(str(serial))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def _in_keyring(runtime: Runtime, *words: str) -> tuple[int, dict[str, list[str]]]:
    """The number of the caller's session keyring, and what the container's program is told."""
    noted = runtime.home / "serial"
    line = runtime.words(*words)
    at = line.index(runtime.command[0])
    # As the user that calls the runtime: a keyring belongs to one.
    line[at:at] = [sys.executable, "-c", _IN_KEYRING, "ctrt-property", str(noted)]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=runtime.bundle, env=runtime.environment,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(noted.read_text()), answers(done.stdout)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="keyctl(2) has another number")
def test_a_session_keyring_of_its_own_or_the_caller_s(both: Runtime, probe: Path) -> None:
    both.config("/tmp/probe", change=lambda config: give_probe(config, probe))
    caller, inside = _in_keyring(both, "run", NAME)
    serial, description = int(inside["keyring"][0]), inside["keyring"][1]
    assert serial > 0
    assert serial != caller
    assert not description.endswith(";ctrt-property")
    assert description.startswith("keyring;")
    caller, inside = _in_keyring(both, "run", "--no-new-keyring", NAME)
    assert int(inside["keyring"][0]) == caller
    assert inside["keyring"][1].endswith(";ctrt-property")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="keyctl(2) has another number")
def test_the_keyring_of_a_container_is_in_the_kernel_s_list(runtime: Runtime, probe: Path) -> None:
    """From outside: root is shown every key that its owner may view, with its owner."""

    _, inside = seen(runtime, NAME, probe, process())
    serial = int(inside["keyring"][0])
    lines = [line.split() for line in Path("/proc/keys").read_text().splitlines()]
    own = next(line for line in lines if int(line[0], 16) == serial)
    assert own[7] == "keyring"
    runtime.call("delete", "--force", NAME)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="keyctl(2) has another number")
def test_processes_of_a_container_share_its_session_keyring(both: Runtime, probe: Path) -> None:
    """As with runc: what one puts there the others find; another container has its own."""
    script = "/tmp/probe; exec sleep 1000"
    names = (NAME, f"{NAME}-other")
    told = {}
    for name in names:
        both.config("sh", "-c", script, change=lambda config: give_probe(config, probe))
        both.quiet("run", "--detach", name)
        until(lambda: "seccomp" in both.stdout, "what the program is told")
        told[name] = answers(both.stdout)["keyring"]
        assert told[name][1].endswith(f";_ses.{name}")
    assert told[names[0]][0] != told[names[1]][0]
    _, entered = _in_keyring(both, "exec", NAME, "/tmp/probe")
    assert entered["keyring"] == told[NAME]
    if both.user is None:
        _, entered = _in_keyring(both, "exec", "--user", "1000:1000", NAME, "/tmp/probe")
        assert entered["keyring"] == told[NAME]
    both.config("sleep", "1000", change=lambda config: give_probe(config, probe))
    both.quiet("run", "--detach", "--no-new-keyring", f"{NAME}-callers")
    caller, entered = _in_keyring(both, "exec", f"{NAME}-callers", "/tmp/probe")
    assert int(entered["keyring"][0]) == caller
