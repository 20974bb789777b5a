"""Root and a real ordinary user, each with a bundle of their own and the runtime's command."""

from __future__ import annotations

import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import PROJECT, Runtime, command, root_files

from tests.conftest import USERS, _have_user


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import os

    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="root is needed here, and the tests run as an ordinary user")
    for item in items:
        if "runtime" in Path(item.path).relative_to(PROJECT).parts:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory that everybody may pass through, with the code and a root file system."""
    path = Path(tempfile.mkdtemp(prefix="ctrt-runtime-tests-"))
    path.chmod(0o755)
    shutil.copytree(
        PROJECT / "ctrt", path / "code" / "ctrt", ignore=shutil.ignore_patterns("__pycache__")
    )
    root_files(path / "rootfs")
    yield path
    shutil.rmtree(path)


def _runtime(place: Path, user: str | None) -> Iterator[Runtime]:
    ids = None
    rootfs = place / "rootfs"
    if user:
        _have_user(user, subordinate=False)
        found = pwd.getpwnam(user)
        ids = (found.pw_uid, found.pw_gid)
        rootfs = place / "rootfs-user"
        if not rootfs.exists():
            root_files(rootfs)
            for path in (rootfs, *rootfs.rglob("*")):
                import os

                os.lchown(path, *ids)
    home = Path(tempfile.mkdtemp(prefix="home-", dir=place))
    runtime = Runtime(home, rootfs, command(place / "code"), ids)
    yield runtime
    runtime.clean()
    left = [entry.name for entry in runtime.root.iterdir()] if runtime.root.exists() else []
    shutil.rmtree(home)
    assert left == []


@pytest.fixture
def runtime(place: Path) -> Iterator[Runtime]:
    """The runtime as root calls it."""
    yield from _runtime(place, None)


@pytest.fixture
def rootless(place: Path) -> Iterator[Runtime]:
    """The runtime as an ordinary user calls it."""
    yield from _runtime(place, USERS["single"])


@pytest.fixture(params=["root", "rootless"])
def both(request: pytest.FixtureRequest, place: Path) -> Iterator[Runtime]:
    """The runtime as root and as an ordinary user calls it."""
    yield from _runtime(place, USERS["single"] if request.param == "rootless" else None)
