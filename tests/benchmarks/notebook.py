"""From Shift-Enter to the first byte: `%%container` beside `%%bash` and `!podman run`.

Over the kernel protocol, warm, interleaved, the smallest and the median of each; what counts are
the ratios. podman is left out where it is not installed or cannot run. And what a live view of 500
processes takes of a core.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernel"))

from kernel_tools import IMAGE, PROJECT, Kernel

PROCESSES = 500
LOOK_SECONDS = 15
ROUNDS = int(os.environ.get("ROUNDS", "15"))


def first_byte(kernel: Kernel, code: str) -> float:
    """Milliseconds until the first output of a cell."""
    seen: list[float] = []
    start = time.perf_counter()
    outcome = kernel.run(code, watch=lambda m: seen.append(time.perf_counter() - start))
    texts = [when for when, m in zip(seen, outcome.messages, strict=True) if m.kind == "stream"]
    assert texts, outcome
    return texts[0] * 1000


def podman_image() -> str | None:
    """An image for podman with a shell, made of busybox."""
    busybox = shutil.which("busybox")
    if not shutil.which("podman") or not busybox:
        return None
    with tempfile.TemporaryDirectory() as directory:
        os.makedirs(f"{directory}/bin")
        shutil.copy(busybox, f"{directory}/bin/sh")
        packed = subprocess.run(
            ["tar", "-C", directory, "-c", "."], capture_output=True, check=True
        ).stdout
    name = "localhost/ctrt-benchmark"
    made = subprocess.run(
        ["podman", "import", "--quiet", "-", name], input=packed, capture_output=True, check=False
    )
    return name if made.returncode == 0 else None


def main() -> None:
    """Measure and print a table."""
    home = Path(tempfile.mkdtemp(prefix="ctrt-bench-"))
    (home / "kernels").symlink_to(PROJECT / "kernel" / "kernelspecs")
    path = [str(PROJECT), str(PROJECT / "kernel"), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        CTRT_ROOT=f"{home}/store",
        JUPYTER_PATH=str(home),
        IPYTHONDIR=f"{home}/ipython",
        PYTHONPATH=os.pathsep.join(filter(None, path)),
    )
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine()
    from_host(engine.store, IMAGE, ["sh", "sleep"])
    engine.close()
    image = podman_image()
    kernel = Kernel()
    try:
        report(measure(cells(IMAGE, image), lambda code: first_byte(kernel, code)))
        share = live_share(kernel)
        print(f"\na live view of {PROCESSES} processes takes {share:.1%} of a core\n")
    finally:
        kernel.stop()
        Engine().destroy()
        shutil.rmtree(home)
        if image:
            subprocess.run(["podman", "rmi", image], capture_output=True, check=False)


def cells(ours: str, podmans: str | None, body: str = "echo x") -> dict[str, str]:
    """The cells that are compared, by their names: all do the same in a shell."""
    found = {"%%bash": f"%%bash\n{body}", "%%container": f"%%container {ours}\n{body}"}
    if podmans:
        options = "--network=none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
        # crun refuses a machine with cgroup v1 and v2 beside each other.
        runtime = "--runtime=runc " if shutil.which("runc") else ""
        found["!podman run"] = f"!podman {runtime}run --rm {options} {podmans} sh -c '{body}'"
    return found


def measure(cells: dict[str, str], first: Callable[[str], float]) -> dict[str, list[float]]:
    """The times of each cell, in turns."""
    times: dict[str, list[float]] = {name: [] for name in cells}
    for turn in range(ROUNDS + 1):
        for name, code in cells.items():
            taken = first(code)
            if turn:  # the first is cold
                times[name].append(taken)
    return times


def report(times: dict[str, list[float]]) -> None:
    """Print a table."""
    ours = statistics.median(times["%%container"])
    print(f"{'cell':14}{'min ms':>9}{'median ms':>11}{'median, as %%container':>25}")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:14}{min(taken):9.1f}{middle:11.1f}{middle / ours:24.2f}x")
    more = ours - statistics.median(times["%%bash"])
    print(f"%%container takes {more:+.1f} ms over %%bash")


def live_share(kernel: Kernel) -> float:
    """What a live picture of a container with many processes takes of a core, between 0 and 1."""
    kernel.good(
        f"%%container --bg=job --name busy {IMAGE}\n"
        f"i=0; while [ $i -lt {PROCESSES} ]; do sleep 600 & i=$((i+1)); done; wait"
    )
    kernel.good("import time; time.sleep(3)\nfrom ctrt.widgets import ContainerGraph")
    kernel.good("graph = ContainerGraph('busy', live=True); time.sleep(2)")
    used = kernel.good(
        "start, before = time.monotonic(), time.process_time()\n"
        f"time.sleep({LOOK_SECONDS})\n"
        "print((time.process_time() - before) / (time.monotonic() - start))"
    )
    kernel.good("graph.close(); job.stop(0)")
    return float(used.stream("stdout"))


if __name__ == "__main__":
    main()
