"""The command line: what engines write, and what people read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime

from ctrt.cli.runtime.options import parse
from ctrt.errors import CtrtError

SLEEP = ("sleep", "1000")


@pytest.mark.parametrize(
    "line",
    [
        "--root /r --log /l --log-format json create --bundle /b --pid-file /p ID",
        "--root=/r --log=/l --log-format=json create --bundle=/b --pid-file=/p ID",
        "--log-format=json --log /l --root /r create -b /b --pid-file /p ID",
        "create ID --bundle /b --pid-file /p --root /r --log=/l --log-format json",
        "--root /r --debug=false --log /l --log-format json create -b/b --pid-file /p -- ID",
        "-root /r -log=/l -log-format json create -bundle /b -pid-file=/p -no-pivot ID",
    ],
)
def test_flags_are_read_wherever_callers_write_them(line: str) -> None:
    words = parse(line.split())
    assert (words.verb, words.operands) == ("create", ["ID"])
    found = [words[name] for name in ("root", "log", "log-format", "bundle", "pid-file")]
    assert found == ["/r", "/l", "json", "/b", "/p"]


def test_a_command_line_in_the_container_is_its_own() -> None:
    words = parse("exec -t -e A=b --env C=d ID ls -l --root".split())
    assert words.operands == ["ID", "ls", "-l", "--root"]
    assert words["env"] == ["A=b", "C=d"]
    assert words["tty"] is True
    assert words["root"] is None


def test_one_dash_before_a_whole_name_is_no_row_of_letters() -> None:
    """go-runc writes -no-subreaper, people write -force; letters in a row are still letters."""
    assert parse("restore -no-subreaper -d ID".split()).values == {
        "no-subreaper": True,
        "detach": True,
    }
    assert parse("delete -force ID".split())["force"] is True
    words = parse("exec -dtu 7 -cwd /tmp ID pwd -force".split())
    assert (words["detach"], words["tty"], words["user"], words["cwd"]) == (True, True, "7", "/tmp")
    assert words.operands == ["ID", "pwd", "-force"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("frobnicate", "No help topic for 'frobnicate': no such command"),
        ("create --frob ID", "--frob is no option of ctrt-runtime create"),
        ("--frob create ID", "--frob is no option of ctrt-runtime"),
        ("create --bundle", "--bundle needs a value"),
        ("create --preserve-fds many ID", "'many' is not a number"),
        ("create --no-pivot=maybe ID", "neither true nor false"),
        ("kill -x ID", "-x is no option"),
    ],
)
def test_a_wrong_word_is_named(line: str, told: str) -> None:
    with pytest.raises(CtrtError) as error:
        parse(line.split())
    assert told in str(error.value)


def test_list_shows_every_container(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("create", "b-two")
    runtime.quiet("run", "-d", "a-one")
    states = json.loads(runtime.call("list", "--format", "json").stdout)
    assert [(s["id"], s["status"]) for s in states] == [("a-one", "running"), ("b-two", "created")]
    assert runtime.call("list", "-q").stdout == "a-one\nb-two\n"
    head, *lines = runtime.call("list").stdout.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert [line.split()[0] for line in lines] == ["a-one", "b-two"]
    assert runtime.call("list", "--format=xml", check=False).returncode == 1


def test_features_is_the_specifications_document(runtime: Runtime) -> None:
    found = json.loads(runtime.call("features").stdout)
    assert found["ociVersionMin"] == "1.0.0"
    assert set(found["hooks"]) >= {"createRuntime", "poststop"}
    assert set(found["linux"]["namespaces"]) >= {"user", "time", "cgroup"}
    assert "CAP_SYS_ADMIN" in found["linux"]["capabilities"]
    assert {"rro", "tmpcopyup", "idmap"} <= set(found["mountOptions"])
    assert found["linux"]["seccomp"]["enabled"] is True
    assert "SCMP_ACT_NOTIFY" in found["linux"]["seccomp"]["actions"]


@pytest.mark.parametrize("options", [[], ["--rootless"]])
def test_spec_writes_a_configuration_that_runs(both: Runtime, options: list[str]) -> None:
    if both.user and not options:
        pytest.skip("an ordinary user has no use for it")
    both.call("spec", *options)
    path = both.bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "-c", "hostname; cat /proc/self/mounts"]
    config["root"]["path"] = str(both.rootfs)
    again = both.call("spec", check=False)
    assert (again.returncode, "exists" in again.stderr) == (1, True)
    path.write_text(json.dumps(config))
    both.quiet("run", "one")
    name, *lines = both.stdout.splitlines()
    assert name == "ctrt"
    seen = {line.split()[1]: line.split()[3] for line in lines}  # those in sight are last
    cgroups = [path for path in seen if path.startswith("/sys/fs/cgroup")]
    assert cgroups
    assert [path for path in cgroups if not seen[path].startswith("ro,")] == []


def test_version_and_help(runtime: Runtime) -> None:
    assert runtime.call("--version").stdout.startswith("ctrt-runtime version ")
    assert "checkpoint" in runtime.call("--help").stdout
    assert "--console-socket FILE" in runtime.call("create", "--help").stdout


def test_criu_is_asked_for_where_it_is_missing(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "-d", "one")
    for verb in ("checkpoint", "restore"):
        done = runtime.call("--criu", "/no/criu", verb, "one", check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1


def test_a_configuration_that_is_wrong_is_told_in_a_sentence(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "not absolute"

    both.config(*SLEEP, change=change)
    assert both.quiet("create", "one", check=False) == 1
    assert "process.cwd" in both.stderr
    assert both.stderr.count("\n") == 1
    (both.bundle / "config.json").write_text("{")
    assert both.quiet("create", "one", check=False) == 1
    assert "config.json" in both.stderr
    (both.bundle / "config.json").unlink()
    assert both.quiet("create", "one", check=False) == 1
    assert "config.json" in both.stderr
    assert not both.root.exists() or os.listdir(both.root) == []


def _cgroup_file(pid: int, controller: str, name: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == controller:
            return Path(f"/sys/fs/cgroup/{controller}{path}/{name}").read_text().strip()
        if not controllers and not Path(f"/sys/fs/cgroup/{controller}").exists():
            return Path(f"/sys/fs/cgroup{path}/{name}").read_text().strip()
    raise AssertionError(f"no cgroup of {controller}")


def test_update_changes_limits(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"] = {
            "memory": {"limit": 64 << 20},
            "pids": {"limit": 20},
            "cpu": {"shares": 512},
        }

    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "-d", "one")
    pid = runtime.pid("one")
    v1 = Path("/sys/fs/cgroup/memory").exists()
    memory = "memory.limit_in_bytes" if v1 else "memory.max"
    assert _cgroup_file(pid, "memory", memory) == str(64 << 20)
    assert _cgroup_file(pid, "pids", "pids.max") == "20"
    runtime.call("update", "--memory", "32m", "--pids-limit", "10", "one")
    assert _cgroup_file(pid, "memory", memory) == str(32 << 20)
    assert _cgroup_file(pid, "pids", "pids.max") == "10"
    resources = json.dumps({"pids": {"limit": 15}})
    runtime.call("update", "--resources", "-", "one", stdin=resources)
    assert _cgroup_file(pid, "pids", "pids.max") == "15"
    wrong = runtime.call("update", "--memory", "much", "one", check=False)
    assert (wrong.returncode, "--memory" in wrong.stderr) == (1, True)


def test_events_tells_what_is_used(runtime: Runtime) -> None:
    runtime.config(*SLEEP, change=lambda c: c["linux"].update(resources={"pids": {"limit": 20}}))
    runtime.quiet("run", "-d", "one")
    event = json.loads(runtime.call("events", "--stats", "one").stdout)
    assert (event["type"], event["id"]) == ("stats", "one")
    assert event["data"]["pids"]["current"] == 1
