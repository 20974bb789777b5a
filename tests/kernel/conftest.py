"""Real kernels, started from this tree, with directories and a store of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE, PROJECT, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def store() -> Iterator[Path]:
    """A private store with one image, the kernel's specification and Jupyter's directories.

    They reach the kernels by the environment, which is put back at the end.
    """
    home = Path(tempfile.mkdtemp(prefix="ctrt-kernel-"))
    home.chmod(0o711)
    (home / "share").mkdir()
    (home / "share" / "kernels").symlink_to(PROJECT / "kernel" / "kernelspecs")
    before = dict(os.environ)
    path = [str(PROJECT), str(PROJECT / "kernel"), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        {
            "CTRT_ROOT": str(home / "store"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_PATH": str(home / "share"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
    )
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine()
    programs = "sh bash base64 cat env head id ln ls mkdir mount seq sleep stty touch tty".split()
    from_host(engine.store, IMAGE, programs)
    engine.close()
    yield home / "store"
    Engine().destroy()
    shutil.rmtree(home)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def kernel(store: Path) -> Iterator[Kernel]:
    """A kernel for the tests of a module."""
    started = Kernel()
    yield started
    started.stop()


@pytest.fixture
def fresh_kernel(store: Path) -> Iterator[Kernel]:
    """A kernel for one test, which may kill it."""
    started = Kernel()
    yield started
    if started.manager.is_alive():
        started.stop()
    else:
        started.client.stop_channels()
        started.manager.cleanup_resources()


@pytest.fixture
def plain_kernel(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """IPython's own kernel, which knows nothing of ctrt."""
    from ipykernel.kernelspec import write_kernel_spec

    write_kernel_spec(tmp_path / "kernels" / "plain")
    monkeypatch.setenv("JUPYTER_PATH", f"{os.environ['JUPYTER_PATH']}:{tmp_path}")
    started = Kernel("plain")
    yield started
    started.stop()
