"""What the OCI runtime's command costs, beside crun and runc in the same run.

    python tests/benchmarks/runtime.py [ROUNDS]

Every row does the same to the same bundle (busybox's `true`, or `sleep` that `exec` enters), with
and without a seccomp profile. The rows take turns, so that a busy moment of the machine meets all
of them; what counts is the ratio. As in start.py, crun and runc run in a mount namespace
without cgroup v2 where v1 is mounted beside it, because crun refuses both at once. Processor time
is that of the command and the processes it waits for, so not of a container that it leaves behind;
a busy machine changes it less than the time on the wall. At the end is the memory of a container
that waits for its start.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from start import Worker, machine, without_unified

from ctrt.runtime.seccomp_default import profile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "runtime"))
from bundles import CAPABILITIES, configuration, root_files  # noqa: E402

USER = "nobody"
Cost = tuple[float, float]
"""Seconds on the wall, and of a processor."""


def command() -> str:
    """The installed command beside this interpreter."""
    return os.path.join(os.path.dirname(sys.executable), "ctrt-runtime")


def make_bundle(root: str, name: str, args: list[str], *, seccomp: bool, rootless: bool) -> str:
    """A bundle on the common root file system."""
    config = configuration(*args, rootless=rootless)
    config["root"]["path"] = f"{root}/rootfs"
    if rootless:
        found = pwd.getpwnam(USER)
        config["linux"]["uidMappings"][0]["hostID"] = found.pw_uid
        config["linux"]["gidMappings"][0]["hostID"] = found.pw_gid
    if seccomp:
        config["linux"]["seccomp"] = profile(CAPABILITIES, os.uname().machine)
    directory = f"{root}/{name}"
    os.makedirs(directory)
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)
    return directory


class Program:
    """A runtime, and the rows that it is measured in."""

    def __init__(self, name: str, program: str, worker: Worker, root: str, user: str) -> None:
        self.name = name
        self.state = f"{root}/state-{name}{'-' + user if user else ''}"
        self.prefix: list[str] = []
        if user:
            found = pwd.getpwnam(user)
            ids = ["--reuid", str(found.pw_uid), "--regid", str(found.pw_gid)]
            self.prefix = ["setpriv", *ids, "--clear-groups"]
        self.program = program
        self.worker = worker
        self.names = iter(range(1 << 30))
        os.makedirs(self.state)
        if user:
            shutil.chown(self.state, user)

    def call(self, *words: str) -> Cost:
        """What one call takes."""
        command = [*self.prefix, self.program, "--root", self.state, *words]
        for _ in range(5):
            try:
                return self.worker.measure(command)
            except SystemExit:
                # runc now and then cannot seal the copy of itself: EBUSY. It is asked again.
                if self.program != "runc" or words[0] != "exec":
                    raise
        raise SystemExit(f"{' '.join(command)} fails each time")

    def run(self, bundle: str) -> Cost:
        """`run` of a program that ends at once."""
        return self.call("run", "-b", bundle, f"{self.name}-{next(self.names)}")

    def life(self, bundle: str) -> Cost:
        """`create`, `start` and `delete`, as an engine calls them."""
        name = f"{self.name}-{next(self.names)}"
        costs = (
            self.call("create", "-b", bundle, name),
            self.call("start", name),
            self.call("delete", "--force", name),
        )
        return sum(wall for wall, _ in costs), sum(used for _, used in costs)

    def execute(self, name: str) -> Cost:
        """`exec` of a program that ends at once."""
        return self.call("exec", name, "true")


def may_run(program: str, user: str) -> bool:
    """Whether an ordinary user can run the command: it may lie in root's home."""
    as_user = ["setpriv", "--reuid", user, "--clear-groups", program, "--version"]
    return subprocess.run(as_user, capture_output=True, check=False).returncode == 0


def resident(programs: list[Program]) -> dict[str, int]:
    """Kilobytes of the process tree of a created container that waits for its start."""
    found = {}
    for program in programs:
        state = subprocess.run(
            [
                *program.prefix,
                program.program,
                "--root",
                program.state,
                "state",
                f"{program.name}-waits",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        with open(f"/proc/{json.loads(state)['pid']}/smaps_rollup") as file:
            found[program.name] = next(int(x.split()[1]) for x in file if x.startswith("Pss:"))
    return found


def main(rounds: int) -> None:
    """Measure and print the tables."""
    root = tempfile.mkdtemp(prefix="ctrt-bench-")
    os.chmod(root, 0o755)
    from pathlib import Path

    root_files(Path(root) / "rootfs")
    plain, peers = Worker(lambda: None), Worker(without_unified)
    print(f"Machine: {machine()}; {rounds} rounds; wall time, milliseconds.")
    for user in ("", USER):
        if user and not may_run(command(), user):
            print(f"\nRootless: {user} may not read {sys.prefix}, so this is not measured.")
            continue
        print(f"\n{'Rootless' if user else 'Root'}:\n")
        programs = [
            Program("ctrt-runtime", command(), plain, root, user),
            Program("crun", "crun", peers, root, user),
            Program("runc", "runc", peers, root, user),
        ]
        kind = "user" if user else "root"
        rows: dict[str, dict[str, Callable[[], Cost]]] = {}
        for seccomp in (False, True):
            suffix = ", seccomp" if seccomp else ""
            tag = f"{kind}-{'profile' if seccomp else 'plain'}"
            short = make_bundle(root, f"{tag}-true", ["true"], seccomp=seccomp, rootless=bool(user))
            long = make_bundle(
                root, f"{tag}-sleep", ["sleep", "10000"], seccomp=seccomp, rootless=bool(user)
            )
            for program in programs:
                program.call("run", "-d", "-b", long, f"{program.name}-{tag}")
            rows[f"create + start + delete{suffix}"] = {
                p.name: (lambda p=p, b=short: p.life(b)) for p in programs
            }
            rows[f"run{suffix}"] = {p.name: (lambda p=p, b=short: p.run(b)) for p in programs}
            rows[f"exec{suffix}"] = {
                p.name: (lambda p=p, n=f"{p.name}-{tag}": p.execute(n)) for p in programs
            }
        report(rows, rounds)
        if not user:
            for program in programs:
                program.call("create", "-b", short, f"{program.name}-waits")
            memory = resident(programs)
            told = ", ".join(
                f"{name} {kilobytes / 1024:.1f} MB" for name, kilobytes in memory.items()
            )
            print(
                f"\nMemory of a created container that waits for its start: {told}; after it: none."
            )
        for program in programs:
            for name in os.listdir(program.state):
                if not name.startswith("."):
                    program.call("delete", "--force", name)
    shutil.rmtree(root, ignore_errors=True)


def report(rows: dict[str, dict[str, Callable[[], Cost]]], rounds: int) -> None:
    """Measure rows that take turns, and print the table as Markdown."""
    costs: dict[str, dict[str, list[Cost]]] = {
        row: {name: [] for name in measures} for row, measures in rows.items()
    }
    for turn in range(rounds + 2):
        for row, measures in rows.items():
            for name, measure in measures.items():
                cost = measure()
                if turn >= 2:  # the first rounds fill caches
                    costs[row][name].append(cost)
    print("| what | ctrt-runtime | crun | runc | of crun | of runc | CPU: ours | crun | runc |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row, found in costs.items():
        walls, used = (
            [statistics.median(cost[which] for cost in values) * 1000 for values in found.values()]
            for which in (0, 1)
        )
        ratios = [f"{walls[0] / other:.2f}" for other in walls[1:]]
        cells = [f"{value:.1f}" for value in walls] + ratios + [f"{value:.1f}" for value in used]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30)
