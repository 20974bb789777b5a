"""From Shift-Enter to the first byte: `%%container` beside `%%bash` and `!podman run`.

Over the kernel protocol, warm, interleaved, the smallest and the median of each; what counts are
the ratios. podman is left out where it is not installed or cannot run.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernel"))

from kernel_tools import IMAGE, PROJECT, Kernel

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
    from_host(engine.store, IMAGE, ["sh"])
    engine.close()
    cells = {"%%bash": "%%bash\necho x", "%%container": f"%%container {IMAGE}\necho x"}
    image = podman_image()
    if image:
        options = "--network=none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
        cells["!podman run"] = f"!podman run --rm {options} {image} sh -c 'echo x'"
    kernel = Kernel()
    times: dict[str, list[float]] = {name: [] for name in cells}
    try:
        for turn in range(ROUNDS + 1):
            for name, code in cells.items():
                taken = first_byte(kernel, code)
                if turn:  # the first is cold
                    times[name].append(taken)
    finally:
        kernel.stop()
        Engine().destroy()
        shutil.rmtree(home)
        if image:
            subprocess.run(["podman", "rmi", image], capture_output=True, check=False)
    ours = min(times["%%container"]), statistics.median(times["%%container"])
    print(f"{'cell':14}{'min ms':>9}{'median ms':>11}{'median, as %%container':>25}")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:14}{min(taken):9.1f}{middle:11.1f}{middle / ours[1]:24.2f}x")
    more = ours[1] - statistics.median(times["%%bash"])
    print(f"\n%%container takes {more:+.1f} ms over %%bash")


if __name__ == "__main__":
    main()
