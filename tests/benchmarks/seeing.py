"""How long it takes to look at everything, beside lsns in the same run.

    python tests/benchmarks/seeing.py [ROUNDS [PROCESSES ...]]

As root. The processes are `sleep`s, twenty to a container: each container with six namespaces of
its own and twenty mounts more than the host has, made by unshare(1). The rows take turns, so that
a busy moment of the machine meets all of them; what counts is the ratio to lsns.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ctrt import observe

EACH = 20
LIMITS = {"full scan": 0.45, "namespaces and mounts": 0.17}
SCRIPT = """
mount --make-rprivate /
mount -t tmpfs lesson "$0"
i=0; while [ $i -lt 20 ]; do mkdir "$0/$i"; mount -t tmpfs lesson "$0/$i"; i=$((i+1)); done
i=2; while [ $i -lt "$1" ]; do sleep 100000 & i=$((i+1)); done
echo ready
wait
"""


@contextlib.contextmanager
def population(processes: int) -> Iterator[None]:
    """So many processes in containers; they end with the block."""
    containers = []
    with tempfile.TemporaryDirectory(prefix="ctrt-bench-") as place:
        try:
            for _ in range(max(processes // EACH, 1)):
                containers.append(
                    subprocess.Popen(
                        [
                            *("unshare", "-mpnuiC", "-f", "--kill-child", "--mount-proc"),
                            *("busybox", "sh", "-c", SCRIPT, place, str(EACH)),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        start_new_session=True,
                    )
                )
            for container in containers:
                assert container.stdout is not None
                assert container.stdout.readline() == b"ready\n"
            yield
        finally:
            for container in containers:
                os.killpg(container.pid, 9)
            for container in containers:
                container.communicate()


class Cost(NamedTuple):
    """Seconds by the clock, and seconds of a processor: those of children too."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Cost:
    before, begun = os.times(), time.perf_counter()
    call()
    wall, after = time.perf_counter() - begun, os.times()
    return Cost(wall, sum(after[:4]) - sum(before[:4]))


def lsns() -> None:
    subprocess.run(["lsns"], stdout=subprocess.DEVNULL, check=True)


def measure(processes: int, rounds: int) -> dict[str, list[Cost]]:
    """The seconds of each row, round by round."""
    rows: dict[str, Callable[[], object]] = {
        "lsns": lsns,
        "full scan": observe.scan,
        "namespaces and mounts": lambda: observe.scan(details=False),
    }
    with population(processes):
        times: dict[str, list[Cost]] = {name: [] for name in rows}
        for turn in range(rounds + 1):
            for name, call in rows.items():
                cost = timed(call)
                if turn:  # the first round fills the kernel's caches
                    times[name].append(cost)
        times["one process"] = [
            timed(lambda: observe.snapshot(others=False)) for _ in range(50 * rounds)
        ]
    return times


def report(processes: int, times: dict[str, list[Cost]]) -> None:
    """The rows of the table for one number of processes."""

    def medians(name: str) -> Cost:
        return Cost(*(statistics.median(values) for values in zip(*times[name], strict=True)))

    whole = medians("lsns")
    for name, values in times.items():
        median = medians(name)
        print(
            f"| {processes} | {name} | {min(values).wall * 1000:.2f} | {median.wall * 1000:.2f} "
            f"| {median.wall / whole.wall:.3f} | {median.cpu / whole.cpu:.3f} "
            f"| {LIMITS.get(name, '')} |"
        )


def main(rounds: int, sizes: list[int]) -> None:
    """Measure and print the table."""
    print(f"Machine: {os.cpu_count()} cores, Linux {platform.release()}; {rounds} rounds.\n")
    print("| processes | what | least, ms | median, ms | of lsns | of its CPU time | aim |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for processes in sizes:
        report(processes, measure(processes, rounds))
        sys.stdout.flush()


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    main(words[0] if words else 5, words[1:] or [100, 1000, 5000])
