"""How long a container takes to start, beside crun, runc and podman in the same run.

    python tests/benchmarks/start.py [ROUNDS]

Every row starts `true` in the same root file system (busybox), with the same namespaces, mounts,
capabilities and seccomp profile, and waits for its end, clean-up included. The rows take turns,
so that a busy moment of the machine meets all of them; what counts is the ratio. crun refuses a
machine with cgroup v1 and v2 beside each other, so it and runc run in a mount namespace without
the v2 one: they have v1 cgroups then, as they would have on such a machine.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from ctrt.engine import Engine
from ctrt.linux import calls

IMAGE = "localhost/bench/box"
PROFILE_OFF = ["--security-opt", "seccomp=unconfined"]


class Worker:
    """A small process that runs commands and times them; `enter` prepares it first."""

    def __init__(self, enter: Callable[[], None]) -> None:
        self._to, self._from = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                enter()
                self._serve()
            finally:
                os._exit(0)

    def _serve(self) -> None:
        with os.fdopen(self._to[0]) as orders:
            os.close(self._to[1])
            # crun gives its standard streams to the container's root: /dev/null would be theirs.
            null = os.memfd_create("empty")
            for line in orders:
                command = json.loads(line)
                start = time.perf_counter()
                pid = os.posix_spawnp(
                    command[0],
                    command,
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, null, n) for n in (0, 1)],
                )
                _, status, usage = os.wait4(pid, 0)
                seconds = time.perf_counter() - start
                used = usage.ru_utime + usage.ru_stime
                answer = [seconds, os.waitstatus_to_exitcode(status), used]
                os.write(self._from[1], (json.dumps(answer) + "\n").encode())

    def run(self, command: list[str]) -> float:
        """Seconds from the start of a command to its end; it must succeed."""
        return self.measure(command)[0]

    def measure(self, command: list[str]) -> tuple[float, float]:
        """The same, and seconds of processor time of it and the processes it waited for."""
        os.write(self._to[1], (json.dumps(command) + "\n").encode())
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(self._from[0], 4096)
        seconds, status, used = json.loads(data)
        if status != 0:
            raise SystemExit(f"{' '.join(command)} ended with status {status}")
        return float(seconds), float(used)


def without_unified() -> None:
    """A mount namespace of one's own in which only cgroup v1 is seen, where there are both."""
    calls.unshare(calls.CLONE_NEWNS)
    calls.mount("", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        calls.umount2("/sys/fs/cgroup/unified", 0)


def bundle(directory: str, config: dict, *, seccomp: bool) -> str:
    """An OCI bundle of our own configuration, as far as the peers of today take it."""
    config = json.loads(json.dumps(config))
    config["ociVersion"] = "1.0.2"
    config["root"]["path"] = os.path.join(directory, "..", "rootfs")
    config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/etc/hosts"]
    config["linux"].pop("cgroupsPath", None)
    if not seccomp:
        config["linux"].pop("seccomp")
    os.makedirs(directory)
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)
    return directory


def machine() -> str:
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "?")
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def main(rounds: int) -> None:
    """Measure and print the table."""
    root = tempfile.mkdtemp(prefix="ctrt-bench-")
    os.chmod(root, 0o755)
    os.environ["CTRT_ROOT"] = f"{root}/store"
    plain, peers = Worker(lambda: None), Worker(without_unified)
    engine = Engine()
    from ctrt.images.hostimage import from_host

    image = from_host(engine.store, IMAGE, ["busybox"])
    lower = engine.lowers(image)[0]
    shutil.copytree(lower, f"{root}/rootfs", symlinks=True)
    config = engine.prepare(IMAGE, ["true"]).config
    assert config is not None
    # The peers get the files as ours see them: owned by the container's root.
    first = config["linux"]["uidMappings"][0]["hostID"]
    for path, directories, files in os.walk(f"{root}/rootfs"):
        for name in (".", *directories, *files):
            os.lchown(os.path.join(path, name), first, first)
    with_profile = bundle(f"{root}/profile", config, seccomp=True)
    without = bundle(f"{root}/plain", config, seccomp=False)
    names = iter(range(1 << 30))
    command = os.path.join(os.path.dirname(sys.executable), "ctrt")

    def warm(*options: str) -> float:
        start = time.perf_counter()
        engine.run(IMAGE, ["true"], options=options)
        return time.perf_counter() - start

    def runtime(program: str, directory: str) -> Callable[[], float]:
        return lambda: peers.run(
            [program, "--root", f"{root}/{program}", "run", "-b", directory, f"b{next(names)}"]
        )

    rows: dict[str, Callable[[], float]] = {
        "warm cell": warm,
        "warm cell, no seccomp": lambda: warm(*PROFILE_OFF),
        "ctrt run": lambda: plain.run([command, "run", IMAGE, "true"]),
        "ctrt run, no seccomp": lambda: plain.run([command, "run", *PROFILE_OFF, IMAGE, "true"]),
        "crun run": runtime("crun", with_profile),
        "crun run, no seccomp": runtime("crun", without),
        "runc run": runtime("runc", with_profile),
        "runc run, no seccomp": runtime("runc", without),
    }
    podman = [
        *("podman", "--root", f"{root}/podman", "--runroot", f"{root}/podman-run"),
        *("--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc"),
    ]
    settings = f"{root}/containers.conf"
    with open(settings, "w") as file:
        file.write('[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n')
    os.environ["CONTAINERS_CONF"] = settings
    peers_podman = Worker(lambda: None)
    subprocess.run(
        [*podman, "import", "-q", "-", "localhost/bench/box"],
        input=subprocess.run(
            ["tar", "-C", f"{root}/rootfs", "-c", "."], check=True, capture_output=True
        ).stdout,
        check=True,
        capture_output=True,
    )
    rows["podman run"] = lambda: peers_podman.run(
        [*podman, "run", "--rm", "--network=none", "localhost/bench/box", "/bin/true"]
    )
    times: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 2):
        for name, measure in rows.items():
            if name == "podman run" and turn % 4:
                continue
            seconds = measure()
            if turn >= 2:  # the first rounds fill caches
                times[name].append(seconds)
    report(times)
    engine.destroy()
    subprocess.run([*podman, "rmi", "-af"], check=False, capture_output=True)
    if os.path.ismount(f"{root}/podman/overlay"):
        calls.umount2(f"{root}/podman/overlay", calls.MNT_DETACH)
    shutil.rmtree(root, ignore_errors=True)


def report(times: dict[str, list[float]]) -> None:
    """Print the table as Markdown."""
    medians = {name: statistics.median(values) * 1000 for name, values in times.items()}
    print(f"Machine: {machine()}; {len(times['warm cell'])} rounds; wall time, milliseconds.\n")
    print("| what | least | median | of crun run | of runc run |")
    print("|---|---:|---:|---:|---:|")
    for name, values in times.items():
        suffix = ", no seccomp" if name.endswith("no seccomp") else ""
        ratios = [medians[name] / medians[f"{peer} run{suffix}"] for peer in ("crun", "runc")]
        print(
            f"| {name} | {min(values) * 1000:.1f} | {medians[name]:.1f} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 40)
