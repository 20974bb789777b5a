"""The worlds that tests run in: root, and two ordinary users, one of them without subordinate ids.

The users are real ones with homes of their own, and they run the installed command from an
environment that they can read.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CTRT_CACHE", Path.home() / ".cache" / "ctrt-tests"))
LONG_FOLDERS = ["vm", "kernel", "browser", "runtime", "peers", "start"]  # these begin first
ROOT_ONLY = {"images", "peers", "root", "rootless", "runtime", "seeing", "start", "vm"}
USERS = {"subordinate": "ctrt-test-sub", "single": "ctrt-test-one"}
SUBORDINATE_START = 1_600_000_000


def _folder(path: str) -> str:
    """The folder of a test, from its id or path below the project."""
    folder = path.removeprefix("tests/").partition("/")[0]
    # Both run the tour, whose registry has one port.
    return "browser" if folder == "notebooks" else folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A folder's tests share what is dear to make, so one worker of pytest-xdist has them all."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _folder(nodeid)

    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        folder = _folder(item.nodeid)
        return LONG_FOLDERS.index(folder) if folder in LONG_FOLDERS else len(LONG_FOLDERS)

    items.sort(key=turn)
    for item in items:
        # On a busy machine podman 4.3 now and then passes on nothing of a container that ends at
        # once, whatever the runtime; and what others do on others' runtimes says nothing of ours.
        parameters = set(re.split(r"\W+", item.name.partition("[")[2]))
        if _folder(item.nodeid) == "peers" or {"runc", "crun"} & parameters:
            item.add_marker(pytest.mark.flaky(reruns=2))
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="root is needed here, and the tests run as an ordinary user")
    for item in items:
        if ROOT_ONLY & set(Path(item.path).relative_to(PROJECT).parts):
            item.add_marker(skip)


class World(NamedTuple):
    """Who runs the command, from which environment, on which store."""

    name: str
    user: str | None
    bin: Path
    home: Path

    @property
    def root(self) -> Path:
        return self.home / "store"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "CTRT_ROOT": str(self.root),
        }

    def words(self, *command: str) -> list[str]:
        """A command line that runs a command as this world's user."""
        if self.user is None:
            return list(command)
        return ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups", *command]

    def run(
        self, *command: str, stdin: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run any command as this world's user."""
        return subprocess.run(
            self.words(*command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
            cwd=self.home,
            check=False,
        )

    def ctrt(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `ctrt` as this world's user."""
        return self.run(str(self.bin / "ctrt"), *words, stdin=stdin)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one worker at a time, for what all of them share."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def notebook_ports() -> Iterator[None]:
    """The ports that the notebooks serve at are fixed, and another clone may be tested now."""
    with locked("notebook-ports"):
        yield


ENGINES_CGROUPS = ("ctrt", "ctrt-tests", "default", "libpod_parent", "peers")


@pytest.fixture(scope="session", autouse=True)
def cgroups_as_before() -> Iterator[None]:
    """Engines leave the cgroup that their containers' cgroups are in: remove those, once empty."""
    places = [f"{tree}/{name}" for tree in glob("/sys/fs/cgroup/*") for name in ENGINES_CGROUPS]
    known = {place for place in places if os.path.isdir(place)}
    yield
    for place in places:
        if place not in known:
            with suppress(OSError):
                os.rmdir(place)


def _have_user(name: str, subordinate: bool) -> None:
    with locked("users"):
        _make_user(name, subordinate)


def _make_user(name: str, subordinate: bool) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        subprocess.run(
            ["useradd", "--no-create-home", "--shell", "/bin/sh", name],
            check=True,
            capture_output=True,
        )
    for path in ("/etc/subuid", "/etc/subgid"):
        lines = []
        if os.path.exists(path):
            with open(path) as file:
                lines = [line for line in file if not line.startswith(f"{name}:")]
        if subordinate:
            lines.append(f"{name}:{SUBORDINATE_START}:65536\n")
        with open(path, "w") as file:
            file.writelines(lines)


@pytest.fixture(scope="session")
def user_bin() -> Path:
    """The `bin` of an environment of Debian's Python that every user can read.

    Its packages are installed once and kept in the cache; the wheel under test is new each time.
    """
    place = Path(os.environ.get("CTRT_USERS_PLACE", "/var/tmp"))  # of each clone that tests now
    environment = place / f"ctrt-tests-{sys.version_info[0]}{sys.version_info[1]}"
    python = environment / "bin" / "python"
    wheel = next((PROJECT / "build" / "wheel").glob("ctrt-*.whl"))
    known = environment / "installed"
    identity = f"{wheel} {wheel.stat().st_mtime_ns}"
    with locked("environment"):
        if not known.exists() or known.read_text() != identity:
            if not python.exists():
                subprocess.run(["/usr/bin/python3", "-m", "venv", environment], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet"]
            packages = [f"ctrt[jupyter] @ {wheel.as_uri()}", "nbval", "pytest"]
            subprocess.run([*pip, *packages], check=True)
            subprocess.run([*pip, "--no-deps", "--force-reinstall", str(wheel)], check=True)
            known.write_text(identity)
    return environment / "bin"


@pytest.fixture(scope="session")
def homes() -> Iterator[Path]:
    """A directory for the worlds' homes, which everybody may pass through."""
    path = Path(tempfile.mkdtemp(prefix="ctrt-worlds-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def podman() -> Iterator[list[str]]:
    """The words that run podman on a store of its own (its paths may not be long)."""
    if not shutil.which("podman") or os.geteuid() != 0:
        pytest.skip("needs podman as root")
    place = tempfile.mkdtemp(prefix="ctrt-podman-")
    words = ["podman", "--root", f"{place}/p", "--runroot", f"{place}/r", "--storage-driver", "vfs"]
    yield words
    subprocess.run([*words, "rmi", "-a", "-f"], capture_output=True, check=False)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def debian_python() -> Path:
    """Debian's files with Python and ipykernel as a plain tar, made once and kept."""
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap as root")
    made = CACHE / "debian-python.tar"
    with locked("debian-python"):
        if not made.exists():
            asked = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)"]
            targets = subprocess.run(
                [*asked, "Created-By: Packages"], capture_output=True, text=True, check=True
            )
            # bookworm, and not bookworm-security
            lines = [line.split() for line in targets.stdout.splitlines()]
            site, release = min(lines, key=lambda words: len(words[1]))
            options = CACHE / "apt.conf"  # a proxy, if there is one
            dumped = subprocess.run(
                ["apt-config", "dump", "Acquire"], capture_output=True, check=True
            )
            options.write_bytes(dumped.stdout)
            large = "share/doc share/locale share/man share/perl lib/*/perl* lib/*/libicu* bin/gdb"
            leave_out = [f"--dpkgopt=path-exclude=/usr/{name}*" for name in large.split()]
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=extract", f"--aptopt={options}", *leave_out,
                 "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                 "--include=python3-ipykernel,dash,bash,coreutils,base-files",
                 release, f"{made}.new.tar", site],
                check=True, capture_output=True,
            )  # fmt: skip
            os.rename(f"{made}.new.tar", made)
    return made


def _world(name: str, homes: Path, binaries: Path) -> Iterator[World]:
    user = USERS.get(name)
    home = homes / name
    home.mkdir(exist_ok=True)
    if user is not None:
        _have_user(user, subordinate=name == "subordinate")
        shutil.chown(home, user, user)
    world = World(name, user, binaries, home)
    made = world.ctrt("image", "from-host", "--name", "localhost/test/box", "busybox")
    assert made.returncode == 0, made.stderr
    yield world
    left = world.ctrt("ps").stdout.splitlines()[1:]
    world.run(str(binaries / "python"), "-c", "from ctrt.engine import Engine; Engine().destroy()")
    assert left == []


@pytest.fixture(scope="session")
def root_world(homes: Path) -> Iterator[World]:
    yield from _world("root", homes, Path(sys.executable).parent)


@pytest.fixture(scope="session")
def subordinate_world(homes: Path, user_bin: Path) -> Iterator[World]:
    yield from _world("subordinate", homes, user_bin)


@pytest.fixture(scope="session")
def single_world(homes: Path, user_bin: Path) -> Iterator[World]:
    yield from _world("single", homes, user_bin)


@pytest.fixture(params=["root", "rootless-subordinate", "rootless-single"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the three worlds in turn."""
    name = request.param.removeprefix("rootless-")
    found = request.getfixturevalue(f"{name}_world")
    assert isinstance(found, World)
    return found
