"""A machine full of containers: twenty of podman and of ctrt, nested namespaces, shared mounts.

    python tests/seeing/seeing_world.py DIRECTORY

makes that world, as root, and writes a picture of each view into a directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from seeing_tools import SHELL, child, remove, running, unshared

ID = "0123456789abcdef" * 4
UID = "6f0e9bd2-58b5-44f1-8d2a-0c1d2e3f4a5b"
# A shared tree with a peer, a slave and a private copy of it, and a mount made after that.
SHARING = """
mount -t tmpfs lesson "$0" && cd "$0" && mkdir one two three four
mount -t tmpfs common one && mount --make-shared one
mount --bind one two
mount --bind one three && mount --make-slave three
mount --bind one four && mount --make-private four
mkdir one/later && mount -t tmpfs later one/later
mount -t tmpfs over one/later
echo ready; read line
"""


class World(NamedTuple):
    """The engine of ctrt's containers, and pids by what they are called."""

    engine: Any
    pids: dict[str, int]


@contextlib.contextmanager
def world(podmans=8, ours=12):
    """So many containers of each engine, and what else there is to be seen."""
    place = Path(tempfile.mkdtemp(prefix="ctrt-world-"))
    place.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(remove, place)
        pids = {}
        if shutil.which("podman") and shutil.which("runc"):
            pids.update(podman(stack, place, [(f"web-{n}", ()) for n in range(1, podmans + 1)]))
        engine, found = containers(stack, place, [f"box-{n}" for n in range(1, ours + 1)])
        pids.update(found)
        nested = ("unshare", "-Urmpn", "-f", "--mount-proc", *SHELL)
        outer = stack.enter_context(unshared("-Urn", command=nested))
        pids["outer"], pids["inner"] = outer, child(outer)
        (place / "tree").mkdir()
        shared = ("sh", "-ec", SHARING, str(place / "tree"))
        pids["sharing"] = stack.enter_context(unshared("-m", command=shared))
        pids["docker"] = stack.enter_context(in_cgroup(f"/docker/{ID}"))
        pids["pod"] = stack.enter_context(in_cgroup(f"/kubepods/pod{UID}/{ID[::-1]}"))
        if shutil.which("ip"):
            link(pids["box-1"], pids["box-2"])
        yield World(engine, pids)


def podman(stack, place, names):
    """Containers of podman by their names, each with more options; their pids."""
    (place / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "rootfs/bin/busybox")
    with tarfile.open(place / "rootfs.tar", "w") as tar:
        tar.add(place / "rootfs", "/")
    settings = place / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n')
    command = [
        "podman", "--root", str(place / "podman"), "--runroot", str(place / "podman-run"),
        "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc",
    ]  # fmt: skip

    def run(*words, check=True):
        return subprocess.run(
            [*command, *words], env={**os.environ, "CONTAINERS_CONF": str(settings)},
            check=check, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    run("import", "-q", str(place / "rootfs.tar"), "localhost/world/box")
    for name, options in names:
        run("run", "-d", "--name", name, "--network=none", *options, "localhost/world/box",
            "/bin/busybox", "sleep", "600")  # fmt: skip
    wanted = [name for name, _ in names]
    stack.callback(run, "rm", "-f", "-t", "0", *wanted, check=False)
    told = run("inspect", "-f", "{{.Name}} {{.State.Pid}}", *wanted)
    pids = {name: int(pid) for name, pid in (line.split() for line in told.splitlines())}
    state = "{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.State.Error}}"
    assert all(pids.values()), run("inspect", "-f", state, *wanted)
    return pids


def containers(stack, place, names):
    """Containers of ctrt by their names; their engine, and their pids."""
    from ctrt.engine import Engine
    from ctrt.engine.options import RUN
    from ctrt.images.hostimage import from_host

    engine = Engine(root=str(place / "store"))
    stack.callback(engine.destroy)
    from_host(engine.store, "localhost/world/ours", ["busybox"])
    pids = {}
    for name in names:
        options = RUN.parse(["--name", name])
        command = ["busybox", "sleep", "600"]
        container = engine.start(engine.prepare("localhost/world/ours", command, options))
        stack.callback(container.close)
        stack.callback(container.signal, 9)
        pids[name] = container.pid
    return engine, pids


@contextlib.contextmanager
def in_cgroup(path):
    """A process in a cgroup that is named as an engine names those of its containers."""
    from ctrt.observe import hierarchy

    top = f"{hierarchy().mount}/ctrt-seeing-{os.getpid()}-{path.split('/')[1]}"
    place = f"{top}{path}"
    os.makedirs(place)
    try:
        with running(*SHELL) as pid:
            with open(f"{place}/cgroup.procs", "w") as file:
                file.write(str(pid))
            yield pid
    finally:
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)


def link(one, other):
    """A pair of virtual network devices between two containers, with addresses."""

    def ip(*words, within=()):
        subprocess.run([*within, "ip", *words], check=True)

    ends = ("netns", str(one), "type", "veth", "peer", "name", "eth0", "netns", str(other))
    ip("link", "add", "eth0", *ends)
    for number, pid in enumerate((one, other), 1):
        within = ("nsenter", "-t", str(pid), "-n")
        ip("address", "add", f"192.0.2.{number}/24", "dev", "eth0", within=within)
        ip("link", "set", "eth0", "up", within=within)


VIEWS = {
    "container": "graph container box-1",
    "namespaces": "graph namespaces",
    "namespaces-inner": "graph namespaces {inner}",
    "mounts-sharing": "graph mounts {sharing}",
    "mounts-beside": "graph mounts host {sharing}",
    "mounts-podman": "graph mounts {web-1}",
    "caps": "graph caps box-1",
    "caps-podman": "graph caps {web-1}",
    "ids": "graph ids {inner}",
    "cgroups": "graph cgroups",
    "cgroups-box": "graph cgroups box-1",
    "network": "graph network",
    "network-box": "graph network box-1",
    "stack": "graph stack podman:web-1",
    "stack-box": "graph stack box-1",
    "mounts-inner": "graph mounts {inner}",
    "steps": "graph steps localhost/world/ours true",
    "steps-tried": "graph steps --try localhost/world/ours true",
    "matrix": "caps box-1",
    "diff": "diff host box-1",
    "inside": "diff box-1 inside",
}


def picture(made, words):
    """What a verb draws in the world; pids stand in braces."""
    from ctrt.engine.verbs import VERBS

    verb, *rest = words.format(**made.pids).split()
    return VERBS[verb](made.engine, rest)


def main(directory):
    """Write a picture of each view."""
    os.makedirs(directory, exist_ok=True)
    with world() as made:
        for name, words in VIEWS.items():
            Path(directory, f"{name}.svg").write_text(picture(made, words).svg())
            print(name)


if __name__ == "__main__":
    main(sys.argv[1])
