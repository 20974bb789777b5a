"""Images with a Python, for kernels that run in them; it also runs alone, as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctrt.engine import Engine

PYTHON_IMAGE = "localhost/test/python"
_LINKED = (
    "libstdc++.so.6 libgcc_s.so.1 librt.so.1 libpthread.so.0 libdl.so.2 libutil.so.1 libm.so.6"
)
_LIBRARY = f"/usr/lib/python3.{sys.version_info[1]}"


START = """
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="inside")
manager.start_kernel()
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=100)
"""
"""A client's beginning, for programs that are run by themselves."""


def missing() -> str:
    """Why there can be no such image; "" if there can."""
    if Path(_LIBRARY).is_dir():
        return ""
    return f"there is no {_LIBRARY}: the system's Python is another one than the tests'"


def python_image(engine: Engine) -> None:
    """Debian's Python with its standard library, and no ipykernel."""
    from ctrt.images.hostimage import from_host

    programs = ["/usr/bin/python3", "sh", "sleep", "ls"]
    files = [(_LIBRARY, _LIBRARY), *_libraries(Path(_LIBRARY, "lib-dynload"))]
    from_host(engine.store, PYTHON_IMAGE, programs, files=files)


def _libraries(extensions: Path) -> list[tuple[str, str]]:
    """What the library's own extension modules and pyzmq's are linked with."""
    found: set[str] = set()
    for module in extensions.glob("*.so"):
        listed = subprocess.run(["ldd", module], capture_output=True, text=True, check=False)
        found.update(w for w in listed.stdout.split() if w.startswith("/") and ".so" in w)
    for name in _LINKED.split():
        path = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/{name}"
        if os.path.exists(path):
            found.add(path)
    return [(os.path.realpath(path), path) for path in sorted(found)]
