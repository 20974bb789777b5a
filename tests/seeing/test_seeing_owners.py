"""Whose container a process is in: podman and containerd for real, the others by their names.

Docker, CRI-O, Kubernetes, LXC, Incus and systemd-nspawn are not installed here: for them the
cgroup paths and state directories are made as the engines make them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from seeing_tools import SHELL, remove, running

from ctrt.observe import Owner, Pod, hierarchy, of_cgroup, owners, scan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ID = "0123456789abcdef" * 4
UID = "6f0e9bd2-58b5-44f1-8d2a-0c1d2e3f4a5b"
SLICE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "engine", "number", "pod", "monitor"),
    [
        (f"/docker/{ID}", "docker", ID, None, False),
        (f"/system.slice/docker-{ID}.scope", "docker", ID, None, False),
        (f"/system.slice/docker-{ID}.scope/init.scope", "docker", ID, None, False),
        (f"/machine.slice/libpod-{ID}.scope", "podman", ID, None, False),
        (f"/libpod_parent/libpod-{ID}", "podman", ID, None, False),
        (f"/machine.slice/libpod-conmon-{ID}.scope", "podman", ID, None, True),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
         "podman", ID, None, False),
        (f"{SLICE}.slice/cri-containerd-{ID}.scope", "containerd", ID, UID, False),
        (f"/kubepods/besteffort/pod{UID}/{ID}", "kubernetes", ID, UID, False),
        (f"/kubepods/pod{UID}/{ID}", "kubernetes", ID, UID, False),
        (f"{SLICE}.slice/crio-{ID}.scope", "cri-o", ID, UID, False),
        (f"{SLICE}.slice/crio-conmon-{ID}.scope", "cri-o", ID, UID, True),
        (f"/system.slice/containerd.service{SLICE}.slice:cri-containerd:{ID}", "containerd", ID,
         UID, False),
        ("/lxc.payload.web", "lxc", "web", None, False),
        ("/lxc.payload.web/system.slice/cron.service", "lxc", "web", None, False),
        ("/lxc/web", "lxc", "web", None, False),
        ("/lxc.monitor.web", "lxc", "web", None, True),
        ("/machine.slice/systemd-nspawn@box.service/payload", "systemd-nspawn", "box", None, False),
        (r"/machine.slice/machine-my\x2dbox.scope", "systemd-nspawn", "my-box", None, False),
        ("/ctrt/lesson-0a1b2c3d", "ctrt", "lesson", None, False),
        ("/user.slice/ctrt/two-words-0a1b2c3d/inside", "ctrt", "two-words", None, False),
    ],
)  # fmt: skip
def test_the_names_of_cgroups(path, engine, number, pod, monitor):
    found = of_cgroup(path)
    assert found == Owner(
        engine, number, None, Pod(pod, None, None) if pod else None, monitor, f"cgroup {path}"
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/system.slice/docker.service", "/system.slice/cron.service", "/init.scope",
     "/user.slice/user-1000.slice/session-1.scope", "/docker", f"/{ID}", "/ctrt"],
)  # fmt: skip
def test_nobodys_cgroups(path):
    assert of_cgroup(path) is None


def test_names_from_state_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/home/ann/data")
    tree = hierarchy()
    parts = {
        "docker": f"/docker/{ID}",
        "incus": "/lxc.payload.default_web",
        "kubernetes": f"/kubepods/pod{UID}/{ID[::-1]}",
        "cri-o": f"{SLICE}.slice/crio-{ID}.scope",
        "rootless": f"/user.slice/docker-{ID[::-1]}.scope",
    }
    config = tmp_path / "var/lib/docker/containers" / ID
    config.mkdir(parents=True)
    (config / "config.v2.json").write_text(json.dumps({"Name": "/my-web"}))
    config = tmp_path / "home/ann/data/docker/containers" / ID[::-1]
    config.mkdir(parents=True)
    (config / "config.v2.json").write_text(json.dumps({"Name": "/ann-s-own"}))
    logs = tmp_path / "var/log/containers"
    logs.mkdir(parents=True)
    for container, number in (("cart", ID[::-1]), ("side-car", ID)):
        (logs / f"cart-0_shop_{container}-{number}.log").touch()
    (tmp_path / "var/lib/incus/containers/default_web").mkdir(parents=True)
    (tmp_path / f"var/log/pods/shop_cart-0_{UID}").mkdir(parents=True)
    top = f"/ctrt-seeing-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pids = {}
        stack.callback(remove_cgroups, tree.mount + top)
        for engine, path in parts.items():
            os.makedirs(f"{tree.mount}{top}{path}")
            pids[engine] = stack.enter_context(running(*SHELL))
            with open(f"{tree.mount}{top}{path}/cgroup.procs", "w") as file:
                file.write(str(pids[engine]))
        found = owners(scan(), root=str(tmp_path))
        assert found[pids["docker"]].name == "my-web"
        assert found[pids["incus"]][:2] == ("incus", "default_web")
        assert found[pids["kubernetes"]].pod == Pod(UID, "shop", "cart-0")
        assert found[pids["kubernetes"]].name == "cart"
        assert found[pids["cri-o"]][:3] == ("cri-o", ID, "side-car")
        assert found[pids["rootless"]].name == "ann-s-own"
        assert os.getpid() not in found


def remove_cgroups(path):
    for place, _, _ in os.walk(path, topdown=False):
        os.rmdir(place)


@pytest.fixture(scope="module")
def rootfs():
    """A root file system with busybox, and a place for the engines."""
    place = Path(tempfile.mkdtemp(prefix="ctrt-owners-"))
    (place / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "rootfs/bin/busybox")
    (place / "rootfs/bin/sleep").symlink_to("busybox")
    yield place
    remove(place)


def test_podman_s_containers_are_named_as_theirs(rootfs):
    if shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("podman with runc is not installed")
    settings = rootfs / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n')
    podman = [
        "podman", "--root", rootfs / "podman", "--runroot", rootfs / "podman-run",
        "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc",
    ]  # fmt: skip
    environment = {**os.environ, "CONTAINERS_CONF": str(settings)}

    def run(*words, **more):
        return subprocess.run(
            [*podman, *words], env=environment, check=True, capture_output=True, text=True, **more
        ).stdout.strip()

    archive = rootfs / "rootfs.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(rootfs / "rootfs", "/")
    run("import", "-q", str(archive), "localhost/seen/box")
    number = run("run", "-d", "--name", "seen-by-ctrt", "--network=none", "localhost/seen/box",
                 "/bin/sleep", "600")  # fmt: skip
    try:
        pid = int(run("inspect", "-f", "{{.State.Pid}}", "seen-by-ctrt"))
        system = scan()
        found = owners(system)
        assert found[pid][:5] == ("podman", number, "seen-by-ctrt", None, False)
        conmon = [p for p, owner in found.items() if owner.id == number and owner.monitor]
        assert [system.processes[p].name for p in conmon] == ["conmon"]
        table = system.tables[system.space(pid, "mnt").key]
        assert table.mounts[0].fstype == "overlay"
    finally:
        run("rm", "-f", "-t", "0", "seen-by-ctrt")


def test_containerd_s_containers_are_named_as_theirs(rootfs):
    if shutil.which("containerd") is None or shutil.which("ctr") is None:
        pytest.skip("containerd is not installed")
    place = rootfs / "containerd"
    place.mkdir()
    socket = place / "sock"
    config = place / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    log = open(place / "log", "w")  # noqa: SIM115  (it is the daemon's as long as it runs)
    daemon = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    ctr = ["ctr", "-a", str(socket)]
    try:
        for _ in range(100):
            if subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0:
                break
            assert daemon.poll() is None, (place / "log").read_text()[-2000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(0.1)
        subprocess.run(
            [*ctr, "run", "-d", "--rootfs", str(rootfs / "rootfs"), "seen-by-ctrt", "/bin/sleep",
             "600"], check=True, capture_output=True,
        )  # fmt: skip
        listed = subprocess.run(
            [*ctr, "task", "ls"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        pid = next(int(line.split()[1]) for line in listed if line.startswith("seen-by-ctrt"))
        system = scan()
        found = owners(system)
        assert found[pid][:2] == ("containerd", "seen-by-ctrt")
        assert not found[pid].monitor
        shims = [p for p, o in found.items() if o.id == "seen-by-ctrt" and o.monitor]
        assert [system.processes[p].command[0].rpartition("/")[2] for p in shims] == [
            "containerd-shim-runc-v2"
        ]
    finally:
        for words in (
            ["task", "kill", "-s", "SIGKILL", "seen-by-ctrt"],
            ["task", "rm", "-f", "seen-by-ctrt"],
            ["container", "rm", "seen-by-ctrt"],
        ):
            subprocess.run([*ctr, *words], capture_output=True, check=False)
        daemon.terminate()
        daemon.wait()
        log.close()
