"""An ipykernel for an image whose Python is another one than here: pip chooses and fetches it."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS, kernels
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Callable

    Install = Callable[..., Path]

OTHER = f"3.{sys.version_info[1] + 1}"


def _wheel(directory: Path, name: str, tag: str, *needs: str) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(directory / f"{name}-1.0-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"TAG = {tag!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def install(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a kernel for an image that says that it has such a Python; the packages' place.

    pip finds wheels for two Pythons and two C libraries, in a directory instead of an index.
    """
    number = OTHER.replace(".", "")
    _wheel(tmp_path, "ipykernel", "py3-none-any", "binary")
    _wheel(tmp_path, "typing_extensions", "py3-none-any")
    for tag in (
        "cp311-cp311-manylinux_2_17_x86_64",
        f"cp{number}-cp{number}-manylinux_2_17_x86_64",
        f"cp{number}-cp{number}-manylinux_2_39_x86_64",
        f"cp{number}-cp{number}-musllinux_1_2_x86_64",
    ):
        _wheel(tmp_path, "binary", tag)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def run(version: str, libc: str) -> Path:
        words = ["/usr/bin/python3", version, "linux-x86_64", libc, "False", "False"]
        monkeypatch.setattr(kernels, "_ask", lambda *_: kernels._Python(words))
        engine = Engine()
        try:
            VERBS["kernel"](engine, ["install", "--image", IMAGE, "--name", "other"])
        finally:
            engine.close()
        path = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", "other", "kernel.json")
        argv = json.loads(path.read_text())["argv"]
        return Path(argv[argv.index("--packages") + 1])

    return run


@pytest.mark.parametrize(
    ("libc", "platform"), [("glibc-2.36", "manylinux_2_17"), ("musl", "musllinux_1_2")]
)
def test_it_is_fetched_once_for_each_kind(install: Install, libc: str, platform: str) -> None:
    place = install(OTHER, libc)
    assert platform in (place / "binary" / "__init__.py").read_text()
    assert OTHER.replace(".", "") in (place / "binary" / "__init__.py").read_text()
    before = place.stat().st_ino
    assert install(OTHER, libc) == place
    assert place.stat().st_ino == before


def test_a_python_that_there_is_none_for(install: Install, store: Path) -> None:
    with pytest.raises(CtrtError) as caught:
        install("3.99", "glibc-2.36")
    said = str(caught.value)
    assert said.startswith(
        f"kernel install: {IMAGE} has no ipykernel, and pip cannot fetch one for Python 3.99 "
        "(glibc-2.36): "
    )
    assert "\n" not in said
    assert said.endswith("install ipykernel in the image, or ctrt in an environment of that Python")
    assert not list((store / "kernel-packages").glob("3.99*"))
