"""How long an image takes from a registry to a root file system, beside podman and skopeo+umoci.

    python tests/benchmarks/pull.py [ROUNDS] [debian|layers|large ...]

The registry is Debian's docker-registry on loopback, so that the network costs nothing. Three
images: "debian" has 10,000 files in one layer, "layers" 60 small layers, "large" one layer of
1 GB. Each row pulls into an empty store and unpacks; the rows take turns, and what counts is the
ratio. Each has a fresh ext4 file system of its own: one from which files were just removed makes
new ones up to ten times more slowly, as ext4 looks past inodes that were in use a moment ago.
Memory is the largest of the processes that a row starts, as time(1) tells it: of what this
program starts itself, wait4(2) would count this program's own memory before the exec.

"start" is the first container after that: `true` (busybox, in a layer of its own), without a
network, until its end; skopeo and umoci start none.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ctrt.images import registries, transports
from ctrt.images.copy import push
from ctrt.images.store import Store
from ctrt.images.transports import Options
from ctrt.oci import media

ROOT = Path(__file__).resolve().parents[2]
PULL = """
import sys
sys.path.insert(0, sys.argv[1])
from ctrt.images import layers
from ctrt.images.pull import pull
from ctrt.images.store import Store
store = Store(sys.argv[2])
how = layers.Unpacker("root")
layers.unpack(store, pull(store, sys.argv[3], unpacker=how), how)
"""


def words(noise: random.Random, size: int) -> bytes:
    """Bytes that gzip makes about half as large, as it does a Debian system."""
    line = noise.randbytes(max(1, size // 4))
    return (line + line.hex().encode())[:size].ljust(size, b"\n")


def layer(path: str, sizes: list[int], noise: random.Random, prefix: str) -> tuple[str, str, int]:
    """Write a gzipped layer; its digest, its diff ID and its size.

    Without sizes it is one with /bin/true.
    """
    plain = hashlib.sha256()

    class Both:
        def __init__(self, to: gzip.GzipFile) -> None:
            self._to = to

        def write(self, data: bytes) -> int:
            plain.update(data)
            return self._to.write(data)

    with (
        gzip.GzipFile(path, "wb", 1, mtime=0) as packed,
        tarfile.open(fileobj=Both(packed), mode="w|", format=tarfile.PAX_FORMAT) as tar,  # type: ignore[call-overload]
    ):
        if not sizes:
            tar.add("/bin/busybox", "bin/true")
        for number, size in enumerate(sizes):
            if number % 100 == 0:
                directory = tarfile.TarInfo(f"{prefix}/{number // 100}")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(directory)
            member = tarfile.TarInfo(f"{prefix}/{number // 100}/{number}")
            member.size = size
            tar.addfile(member, Pieces(noise, size))  # type: ignore[arg-type]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest(), plain.hexdigest(), os.stat(path).st_size


class Pieces:
    """A file of such bytes, never whole in memory."""

    def __init__(self, noise: random.Random, size: int) -> None:
        self._piece = words(noise, min(size, 1 << 20))
        self._at = 0

    def read(self, count: int) -> bytes:
        if self._at + count > len(self._piece):
            self._at = 0
        data = self._piece[self._at : self._at + count]
        self._at += count
        return data + self.read(count - len(data)) if len(data) < count else data


def make(place: str, name: str, host: str) -> int:
    """Make an image and push it; the bytes of its layers."""
    store = Store(f"{place}/source")
    noise = random.Random(name)
    shapes = {
        "debian": [[int(noise.paretovariate(1.1) * 2500) % 2_000_000 for _ in range(10_000)]],
        "layers": [[8_000] * 20 for _ in range(60)],
        "large": [[1_000_000_000]],
    }
    made = []
    for number, sizes in enumerate([*shapes[name], []]):
        path = f"{place}/layer"
        digest, diff, size = layer(path, sizes, noise, f"d{number}")
        store.temporary().__exit__(None, None, None)
        os.rename(path, store.blob_path(f"sha256:{digest}"))
        made.append((digest, diff, size))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}" for _, diff, _ in made]},
        }
    ).encode()
    digest, size = store.add_blob(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": {"mediaType": media.OCI_CONFIG, "digest": digest, "size": size},
        "layers": [
            {"mediaType": media.OCI_LAYER_GZIP, "digest": f"sha256:{digest}", "size": size}
            for digest, _, size in made
        ],
    }
    digest, _ = store.add_blob(json.dumps(manifest).encode())
    image = store.tag(f"{host}/{name}:1", digest)
    push(store, image, transports.destination(f"{host}/{name}:1", Options(), registries.Config()))
    shutil.rmtree(f"{place}/source")
    return sum(size for _, _, size in made)


def serve(place: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a registry."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = Path(place, "config.yml")
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    child = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return child, f"127.0.0.1:{port}"
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the registry does not start")


@contextlib.contextmanager
def disk(place: str) -> Iterator[str]:
    """A fresh file system, mounted."""
    image, fresh = f"{place}/disk", f"{place}/fresh"
    with open(image, "wb") as file:
        file.truncate(12 << 30)
    os.mkdir(fresh)
    lazy = "lazy_itable_init=1,lazy_journal_init=1"
    subprocess.run(["mkfs.ext4", "-q", "-E", lazy, image], check=True)
    subprocess.run(["mount", "-o", "loop,noinit_itable", image, fresh], check=True)
    os.sync()
    try:
        yield fresh
    finally:
        subprocess.run(["umount", fresh], check=True)
        os.rmdir(fresh)
        os.unlink(image)


def timed(commands: list[list[str]]) -> tuple[float, ...]:
    """Run commands one after the other: seconds, seconds of CPU, megabytes."""
    with tempfile.NamedTemporaryFile() as said:
        begin = time.perf_counter()
        for command in commands:
            subprocess.run(
                ["time", "-q", "-a", "-o", said.name, "-f", "%U %S %M", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        seconds = time.perf_counter() - begin
        lines = [[float(word) for word in line.split()] for line in said]
    cpu = sum(user + system for user, system, _ in lines)
    most = max((kilobytes for _, _, kilobytes in lines), default=0)
    return (seconds if commands else 0.0), cpu, most * 1024 / 1e6


def rows(fresh: str, host: str, name: str) -> dict[str, list[list[str]]]:
    """The commands of each row; `fresh` is an empty directory."""
    image = f"{host}/{name}:1"
    return {
        "ctrt": [[sys.executable, "-I", "-c", PULL, str(ROOT), f"{fresh}/store", image]],
        "podman": [[*podman(fresh), "pull", "-q", "--tls-verify=false", image]],
        "skopeo + umoci": [
            ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}",
             f"oci:{fresh}/oci:1"],
            ["umoci", "unpack", "--image", f"{fresh}/oci:1", f"{fresh}/bundle"],
        ],
    }  # fmt: skip


def podman(fresh: str) -> list[str]:
    """The start of podman's commands, with a store below `fresh`."""
    return ["podman", "--root", f"{fresh}/p", "--runroot", f"{fresh}/r", "--storage-driver",
            "overlay", "--cgroup-manager=cgroupfs", "--events-backend=none",
            "--runtime=runc"]  # fmt: skip


def start(fresh: str, host: str, name: str, row: str) -> list[list[str]]:
    """The commands of a row that start a container of what it has pulled."""
    image = f"{host}/{name}:1"
    ctrt = f"{os.path.dirname(sys.executable)}/ctrt"
    if row == "ctrt":
        return [[ctrt, "--root", f"{fresh}/store", "run", image, "/bin/true"]]
    if row == "podman":
        return [[*podman(fresh), "run", "--rm", "--network=none", image, "/bin/true"]]
    return []


def main(rounds: int, names: list[str]) -> None:
    """Measure and print the tables."""
    place = tempfile.mkdtemp(prefix="ctrt-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    # podman's own limits are more than a container of containers may set.
    os.environ["CONTAINERS_CONF"] = f"{place}/containers.conf"
    Path(place, "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n'
    )
    child, host = serve(place)
    try:
        for name in names:
            size = make(place, name, host)
            found: dict[str, list[tuple[float, ...]]] = {}
            for turn in range(rounds + 1):
                for row in rows("", host, name):
                    with disk(place) as fresh:
                        result = timed(rows(fresh, host, name)[row])
                        result += timed(start(fresh, host, name, row))[:1]
                        subprocess.run(
                            ["umount", f"{fresh}/p/overlay"], capture_output=True, check=False
                        )
                    if turn:  # the first round warms the caches
                        found.setdefault(row, []).append(result)
            table(name, size, found)
    finally:
        child.terminate()
        child.wait()
        shutil.rmtree(place, ignore_errors=True)


def table(name: str, size: int, found: dict[str, list[tuple[float, ...]]]) -> None:
    """Print one image's rows."""
    middle: Callable[[str, int], float] = lambda row, at: statistics.median(  # noqa: E731
        result[at] for result in found[row]
    )
    print(f"\n{name}: {size / 1e6:.0f} MB of layers, {len(found['ctrt'])} rounds\n")
    print("| what | least, s | median, s | of podman | CPU, s | memory, MB | start, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row, results in found.items():
        print(
            f"| {row} | {min(r[0] for r in results):.2f} | {middle(row, 0):.2f}"
            f" | {middle(row, 0) / middle('podman', 0):.2f}"
            f" | {middle(row, 1):.2f} | {max(r[2] for r in results):.1f}"
            f" | {f'{middle(row, 3):.2f}' if middle(row, 3) else ''} |",
            flush=True,
        )


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("the benchmark of pulling is for root: it unpacks owners as they are")
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or ["debian", "layers", "large"]
    )
