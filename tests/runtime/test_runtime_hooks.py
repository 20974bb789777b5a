"""Hooks: each at its moment, in its namespaces, with the state on standard input."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, until

SLEEP = ("sleep", "1000")
OUTSIDE = ("prestart", "createRuntime", "poststart", "poststop")
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def _noting(runtime: Runtime, config: dict[str, Any]) -> Path:
    """Hooks that note what they see; those inside write to a directory that is mounted there."""
    notes = runtime.home / "notes"
    notes.mkdir()
    notes.chmod(0o777)
    config["mounts"].append(
        {"destination": "/notes", "type": "bind", "source": str(notes), "options": ["bind"]}
    )
    script = (
        'd=/notes; [ -d $d ] || d="$NOTES"; cat > "$d/$KIND.state"; '
        'for n in mnt net pid user; do readlink /proc/self/ns/$n; done > "$d/$KIND.ns"; '
        'pwd > "$d/$KIND.cwd"; echo "$KIND $ONLY" >> "$d/order"'
    )
    config["hooks"] = {
        kind: [
            {
                "path": "/bin/sh",
                "args": ["sh", "-c", script],
                "env": [f"KIND={kind}", f"NOTES={notes}", "ONLY=this", "PATH=/bin:/usr/bin"],
            }
        ]
        for kind in KINDS
    }
    return notes


def test_every_hook_has_its_moment_and_place(both: Runtime) -> None:
    found: list[Path] = []
    both.config(*SLEEP, change=lambda config: found.append(_noting(both, config)))
    notes = found[0]

    def order() -> list[str]:
        return (notes / "order").read_text().split()[::2]

    both.quiet("create", "one")
    assert order() == ["prestart", "createRuntime", "createContainer"]
    both.call("start", "one")
    assert order() == [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ]
    pid = both.pid("one")
    links = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "net", "pid", "user")]
    both.call("delete", "--force", "one")
    assert order()[-1] == "poststop"
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid", "user")]
    statuses = {}
    for kind in KINDS:
        state = json.loads((notes / f"{kind}.state").read_text())
        assert state["id"] == "one"
        assert state["bundle"] == str(both.bundle)
        statuses[kind] = state["status"]
        seen = (notes / f"{kind}.ns").read_text().split()
        assert seen == (ours if kind in OUTSIDE else links), kind
        if kind in ("prestart", "createRuntime", "poststart"):
            assert state["pid"] == pid
    assert statuses == {
        "prestart": "creating",
        "createRuntime": "creating",
        "createContainer": "creating",
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_stops_the_creation(both: Runtime, kind: str) -> None:
    stopped = both.home / "stopped"

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 3"]}],
            "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {stopped}"]}],
        }

    both.config(*SLEEP, change=change)
    assert both.quiet("create", "one", check=False) == 1
    assert f"error running {kind} hook #0" in both.stderr
    assert "no luck" in both.stderr
    assert os.listdir(both.root) == []
    assert json.loads(stopped.read_text())["status"] == "stopped"


def test_a_start_hook_that_fails_stops_the_start(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"startContainer": [{"path": "/bin/false"}]}

    both.config(*SLEEP, change=change)
    both.quiet("create", "one")
    pid = both.pid("one")
    done = both.call("start", "one", check=False)
    assert (done.returncode, "startContainer hook" in done.stderr) == (1, True)
    until(lambda: not alive(pid), "the end")
    assert both.status("one") == "stopped"
    assert both.quiet("run", "two", check=False) == 1
    assert os.listdir(both.root) == ["one"]


def test_a_last_hook_that_fails_is_a_warning(runtime: Runtime) -> None:
    after = runtime.home / "after"

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {
            "poststop": [
                {"path": "/bin/false"},
                {"path": "/bin/sh", "args": ["sh", "-c", f"touch {after}"]},
            ]
        }

    runtime.config(*SLEEP, change=change)
    log = runtime.home / "log"
    runtime.quiet("--log", str(log), "run", "-d", "one")
    runtime.call("--log", str(log), "delete", "-f", "one")
    assert "level=warning" in log.read_text()
    assert "poststop hook #0" in log.read_text()
    assert after.exists()


@pytest.mark.parametrize("version", ["1.0.2", "1.3.0"])
@pytest.mark.parametrize("verb", ["run", "run --detach", "run --keep", "start"])
def test_a_poststart_hook_that_fails_stops_the_container_and_takes_it_back(
    both: Runtime, verb: str, version: str
) -> None:
    """What versions of the specification before 1.3 call a warning; runc never did."""
    after, stopped, began = (both.home / name for name in ("after", "stopped", "began"))

    def change(config: dict[str, Any]) -> None:
        config["ociVersion"] = version
        first = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {began}"]}
        last = {"path": "/bin/sh", "args": ["sh", "-c", f"touch {after}"]}
        config["hooks"] = {
            "poststart": [first, {"path": "/bin/false"}, last],
            "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {stopped}"]}],
        }

    both.config(*SLEEP, change=change)
    if verb == "start":
        both.quiet("create", "one")
    assert both.quiet(*verb.split(), "one", check=False) == 1
    assert "error running poststart hook #1" in both.stderr
    assert not after.exists()
    told = json.loads(began.read_text())
    assert told["status"] == "running"
    until(lambda: not alive(told["pid"]), "the end")
    assert json.loads(stopped.read_text())["status"] == "stopped"
    assert os.listdir(both.root) == []


def test_a_hook_that_takes_too_long_is_killed(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {
            "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]
        }

    runtime.config(*SLEEP, change=change)
    began = time.monotonic()
    assert runtime.quiet("create", "one", check=False) == 1
    assert 1 <= time.monotonic() - began < 100
    assert "did not end within 1 s" in runtime.stderr


def test_a_hook_that_is_not_there_is_named(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/no/such/hook"}]}

    runtime.config(*SLEEP, change=change)
    assert runtime.quiet("create", "one", check=False) == 1
    assert "createRuntime hook #0: /no/such/hook: No such file" in runtime.stderr


def test_a_hook_inside_has_the_program_s_environment_and_nothing_of_the_host_s(
    runtime: Runtime,
) -> None:
    def seen(hook: dict[str, Any], *env: str) -> set[str]:
        def change(config: dict[str, Any]) -> None:
            args = ["sh", "-c", "/bin/env > /tmp/environment"]
            config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": args, **hook}]}
            config["process"]["env"] = list(env)

        runtime.config("true", change=change)
        runtime.environment["SECRET"] = "of the host"
        runtime.quiet("run", "one")
        lines = (runtime.rootfs / "tmp" / "environment").read_text().splitlines()
        of_the_shell = ("PATH", "PWD", "SHLVL", "_")
        return {line for line in lines if line.partition("=")[0] not in of_the_shell}

    assert seen({}, "ONE=1", "HOME=/here") == {"ONE=1", "HOME=/here"}
    assert seen({}, "ONE=1") == {"ONE=1", "HOME=/root"}
    assert seen({"env": ["TWO=2"]}, "ONE=1") == {"TWO=2"}
    assert seen({"env": []}, "ONE=1") == set()


def test_a_hook_before_the_change_of_root_begins_in_the_new_root(runtime: Runtime) -> None:
    """So it can mount below it without knowing where that is, as hooks of graphics cards do."""
    (runtime.rootfs / "lib").mkdir(exist_ok=True)
    (runtime.home / "given").write_text("of the host")

    def change(config: dict[str, Any]) -> None:
        words = f"touch lib/given && mount --bind {runtime.home}/given lib/given"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", words], "env": ["PATH=/usr/bin:/bin"]}
        config["hooks"] = {"createContainer": [hook]}
        config["root"]["readonly"] = False

    runtime.config("cat", "/lib/given", change=change)
    assert runtime.call("run", "one").stdout == "of the host"
    assert (runtime.rootfs / "lib" / "given").read_text() == ""
