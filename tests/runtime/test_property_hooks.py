"""Every property of every kind of hook: path, args, env and timeout."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from bundles import Runtime, alive, until

NAME = f"property-hooks-{os.getpid()}"
SLEEP = ("sleep", "1000")
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_and_environment_are_just_what_is_given(both: Runtime, kind: str) -> None:
    notes = both.home / "notes"
    notes.mkdir()
    notes.chmod(0o777)
    script = 'd=$DIR; [ -d $d ] || d=/notes; printf "%s\\n" "$@" > $d/args; env > $d/env'

    def change(config: dict[str, Any]) -> None:
        entry = {"destination": "/notes", "type": "bind", "source": str(notes)}
        config["mounts"].append({**entry, "options": ["bind"]})
        hook = {
            "path": "/bin/sh",
            "args": ["sh", "-c", script, "zero", "first", "second one", ""],
            "env": [f"DIR={notes}", "EMPTY=", "PATH=/bin:/usr/bin"],
        }
        config["hooks"] = {kind: [hook]}

    both.config(*SLEEP, change=change)
    both.quiet("run", "--detach", NAME)
    both.call("delete", "--force", NAME)
    assert (notes / "args").read_text() == "first\nsecond one\n\n"
    found = set((notes / "env").read_text().splitlines())
    own = {line for line in found if line.partition("=")[0] in ("PWD", "OLDPWD", "SHLVL", "_")}
    assert found - own == {f"DIR={notes}", "EMPTY=", "PATH=/bin:/usr/bin"}, "the shell adds its own"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_has_as_long_as_it_is_given(runtime: Runtime, kind: str) -> None:
    note = runtime.home / "pid"
    inside = kind in ("createContainer", "startContainer")

    def change(config: dict[str, Any]) -> None:
        script = f"echo $$ > {'/notes/pid' if inside else note}; exec sleep 1000"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}
        config["hooks"] = {kind: [hook]}
        if kind == "createContainer":
            # It runs before the root is changed: the host's files are there.
            hook["args"] = ["sh", "-c", f"echo $$ > {note}; exec sleep 1000"]
        elif inside:
            entry = {"destination": "/notes", "type": "bind", "source": str(runtime.home)}
            config["mounts"].append({**entry, "options": ["bind"]})

    runtime.config(*SLEEP, change=change)
    log = runtime.home / "log"
    began = time.monotonic()
    status = runtime.quiet("--log", str(log), "run", "--detach", NAME, check=False)
    if kind == "poststop":
        runtime.call("--log", str(log), "delete", "--force", NAME)
    assert 1 <= time.monotonic() - began < 100
    assert "did not end within 1 s" in log.read_text()
    assert status == (0 if kind == "poststop" else 1)
    if kind == "poststop":
        assert "level=warning" in log.read_text()
    assert os.listdir(runtime.root) == []
    if not inside:
        until(lambda: not alive(int(note.read_text())), "the hook to be killed")


def test_a_hook_may_have_a_very_long_time(runtime: Runtime) -> None:
    """Longer than poll(2) can wait at once."""

    def change(config: dict[str, Any]) -> None:
        hook = {"path": "/bin/true", "timeout": 2**63 - 1}
        config["hooks"] = {kind: [{**hook}] for kind in ("createRuntime", "poststop")}

    runtime.config("echo", "done", change=change)
    assert runtime.call("run", NAME).stdout == "done\n"


def test_hooks_of_a_kind_run_in_their_order(runtime: Runtime) -> None:
    note = runtime.home / "order"

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {
            kind: [
                {
                    "path": "/bin/sh",
                    "args": ["sh", "-c", f"echo {kind}{number} $(cat | wc -c) >> {note}"],
                }
                for number in range(3)
            ]
            for kind in ("createRuntime", "poststart", "poststop")
        }

    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    state = json.dumps(runtime.state(NAME))
    runtime.call("delete", "--force", NAME)
    lines = [line.split() for line in note.read_text().splitlines()]
    kinds = ("createRuntime", "poststart", "poststop")
    assert [line[0] for line in lines] == [f"{kind}{n}" for kind in kinds for n in range(3)]
    assert all(0 < int(line[1]) < 2 * len(state) for line in lines), "each is given the state"
