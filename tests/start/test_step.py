"""A start step by step: each stop is before its step, and what there is can be looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

IMAGE = "localhost/test/box"
QUESTION = "call it off "


class Steps:
    """`ctrt run --step` as its reader sees it."""

    def __init__(self, world, *words):
        self.process = subprocess.Popen(
            world.words(str(world.bin / "ctrt"), "run", "--step", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=world.environment(),
        )

    def stop(self):
        """The text of the next stop; "" if there is none."""
        text = b""
        while not text.endswith(QUESTION.encode()):
            data = os.read(self.process.stderr.fileno(), 1)
            if not data:
                return ""
            text += data
        return text.decode()

    def answer(self, text=""):
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def end(self):
        """(status, standard output, what is left of standard error)."""
        out, error = self.process.communicate(timeout=30)
        return self.process.returncode, out.decode(), error.decode()


def leftovers(world):
    containers = world.root / "containers"
    return sorted(os.listdir(containers)) if containers.exists() else []


def test_every_step_is_asked_about_before_it_is_done(world):
    steps = Steps(world, IMAGE, "sh", "-c", "echo hello; exit 3")
    seen = []
    while text := steps.stop():
        number, count, name, where = re.search(r"(\d+)/(\d+) (.+)  \((\w+)\)", text).groups()
        pid = re.search(r"process (\d+); look", text)
        namespace = pid and os.readlink(f"/proc/{pid[1]}/ns/mnt")
        seen.append((int(number), name, where, namespace))
        steps.answer()
        if int(number) == int(count):
            break
    assert steps.end() == (3, "hello\n", "")
    assert [number for number, *_ in seen] == list(range(1, len(seen) + 1))
    made = [name for _, name, _, _ in seen].index("clone")
    assert {namespace for *_, namespace in seen[: made + 1]} == {None}
    # It has its own mount namespace from the clone on, and keeps it.
    assert len({namespace for *_, namespace in seen[made + 1 :]}) == 1
    assert seen[-1][3] != os.readlink("/proc/self/ns/mnt")
    assert {"outside", "inside"} == {where for _, _, where, _ in seen}
    assert leftovers(world) == []


def test_what_is_made_is_there_at_the_next_stop(root_world):
    steps = Steps(root_world, "--hostname", "stepped", IMAGE, "true")
    while not re.search(r"\d host name  ", steps.stop()):
        steps.answer()
    steps.answer()
    pid = re.search(r"process (\d+)", steps.stop())[1]
    name = subprocess.run(
        ["nsenter", "-t", pid, "-u", "hostname"], capture_output=True, text=True, check=True
    )
    assert name.stdout == "stepped\n"
    steps.answer("c")
    assert steps.end() == (0, "", "")


def test_what_a_step_made_is_told_at_the_next_stop(world):
    steps = Steps(world, IMAGE, "true")
    while not re.search(r"\d clone  ", steps.stop()):
        steps.answer()
    steps.answer()
    text = steps.stop()
    assert re.match(r"that made: new user pid mnt net uts cgroup\n", text)
    assert len(re.findall(r"(\d+)/(\d+) (.+)  \((\w+)\)", text)) == 1
    steps.answer("q")
    assert steps.end()[0] == 130


def test_a_start_is_tried_without_the_program(world):
    result = world.ctrt("graph", "steps", "--try", "--json", IMAGE, "true")
    rows = {row["cells"][1]: row["cells"][4] for row in json.loads(result.stdout)["rows"]}
    assert rows["clone"].startswith("new user pid mnt net uts cgroup")
    assert rows["ipc namespace"] == "new ipc"
    assert rows["mount /proc"] == "mounted: NEW/proc"
    assert "unmounted: /" in rows["pivot root"]
    assert leftovers(world) == []
    shown = world.ctrt("graph", "steps", "--try", IMAGE, "true").stdout
    assert str(world.root) not in shown


def test_a_start_that_is_called_off_leaves_nothing(world):
    steps = Steps(world, IMAGE, "true")
    while not (text := steps.stop()).count("(inside)"):
        steps.answer()
    pid = int(re.search(r"process (\d+)", text)[1])
    steps.answer("q")
    assert steps.end() == (130, "", "ctrt: the start was called off; nothing is left of it\n")
    assert leftovers(world) == []
    assert not Path(f"/proc/{pid}").exists()


def test_a_reader_who_is_killed_leaves_nothing(root_world):
    steps = Steps(root_world, IMAGE, "true")
    while not (text := steps.stop()).count("(inside)"):
        steps.answer()
    pid = int(re.search(r"process (\d+)", text)[1])
    pidfd = os.pidfd_open(pid)
    steps.process.kill()
    steps.end()
    import select

    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)
    assert root_world.ctrt("ps").stdout.count("\n") == 1
    assert leftovers(root_world) == []


def test_without_an_answer_the_rest_goes_on(world):
    result = world.ctrt("run", "--step", IMAGE, "echo", "done")
    assert (result.returncode, result.stdout) == (0, "done\n")
    assert result.stderr.count("container directory") == 1
    assert "clone" not in result.stderr


def test_a_step_that_fails_says_so(root_world):
    steps = Steps(root_world, IMAGE, "nowhere")
    assert steps.stop()
    steps.answer("c")
    status, _, error = steps.end()
    assert status == 127
    assert error.startswith("ctrt: localhost/test/box:latest has no command 'nowhere'")


@pytest.mark.parametrize("other", ["-d", "-t", "-i"])
def test_what_cannot_go_with_it(root_world, other):
    result = root_world.ctrt("run", "--step", other, IMAGE, "true")
    assert (result.returncode, result.stderr.count("\n")) == (125, 1)
