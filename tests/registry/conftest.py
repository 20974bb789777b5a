"""A real registry (Debian's docker-registry) on loopback, and one that misbehaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from ctrt.images.store import Store


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, proxies or authorities of whoever runs the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("SSL_CERT", "REGISTRY_AUTH")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def start_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start a docker-registry with more configuration; return its `host:port`."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    running = []

    def start(http: str = "", rest: str = "") -> str:
        place = tmp_path_factory.mktemp("registry")
        port = free_port()
        config = place / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\n"
            f"storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'{http}}}\n{rest}"
        )
        with open(place / "log", "wb") as log:
            child = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        running.append(child)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"127.0.0.1:{port}"
            except OSError:
                assert child.poll() is None, (place / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("the registry does not start")

    yield start
    for child in running:
        child.send_signal(signal.SIGTERM)
        child.wait()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An OCI layout made by umoci: two layers, a command, an environment."""
    if not shutil.which("umoci"):
        pytest.skip("needs umoci")
    place = tmp_path_factory.mktemp("layout")
    tree = place / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_bytes(os.urandom(300_000))
    (tree / "etc").mkdir()
    (tree / "etc/old").write_text("old")
    path = str(place / "oci")
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:latest")
    run("umoci", "insert", "--rootless", "--image", f"{path}:latest", str(tree), "/")
    run("umoci", "insert", "--rootless", "--whiteout", "--image", f"{path}:latest", "/etc/old")
    run("umoci", "config", "--image", f"{path}:latest", "--config.cmd", "/bin/tool",
        "--config.env", "A=b", "--architecture", "amd64", "--os", "linux")  # fmt: skip
    return path


@pytest.fixture(scope="session")
def registry(start_registry: Callable[..., str], layout: str) -> str:
    """A registry with `tool:oci` and `tool:docker` (v2s2), both pushed by skopeo."""
    host = start_registry()
    for tag, form in (("oci", "oci"), ("docker", "v2s2")):
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--format", form,
            f"oci:{layout}:latest", f"docker://{host}/group/tool:{tag}")  # fmt: skip
    return host
