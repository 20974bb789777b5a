"""The house keeps its rules: who imports whom, what a start may load, what is public."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ctrt

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE_PARENT = Path(ctrt.__file__).resolve().parents[1]
# Each of these costs more than the rest of a start's imports together.
HEAVY = {
    *("json", "re", "typing", "dataclasses", "enum", "socket", "subprocess", "pathlib"),
    *("collections", "functools", "contextlib", "importlib", "inspect", "logging", "tempfile"),
    *("threading", "hashlib", "ssl", "msgspec", "urllib3", "shutil", "traceback"),
}


def loaded_by(*modules):
    """The modules that a bare interpreter has after some imports, beyond those it starts with."""
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "before = set(sys.modules)\n"
        "for name in sys.argv[2:]: __import__(name)\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(PACKAGE_PARENT), *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *("ctrt", "ctrt.runtime.executor", "ctrt.runtime.helper", "ctrt.runtime.planner"),
        *("ctrt.runtime.host", "ctrt.linux.filters", "ctrt.linux.ids", "ctrt.oci.fastjson"),
        *("ctrt.engine", "ctrt.engine.config", "ctrt.engine.options", "ctrt.cli.main"),
        "ctrt.cli.start",
    ],
)
def test_what_a_start_loads_is_small(module):
    loaded = loaded_by(module)
    assert module in loaded
    assert loaded & HEAVY == set()


def test_what_engines_call_for_every_container_does_without_os():
    """Start, delete, kill and state: importing `os` is a sixth of all that they do."""
    loaded = loaded_by(
        *("ctrt.cli.runtime.main", "ctrt.cli.runtime.verbs", "ctrt.runtime.existing"),
        *("ctrt.runtime.group", "ctrt.runtime.cgroup_operations", "ctrt.runtime.undoing"),
    )
    assert loaded & {"os", "select", "_ctypes", "_socket", "ctrt.runtime.starting"} == set()


def test_what_makes_a_container_or_enters_one_does_without_os():
    """`os` alone is a twentieth of create, run and exec."""
    loaded = loaded_by(
        *("ctrt.cli.runtime.main", "ctrt.cli.runtime.verbs", "ctrt.cli.runtime.foreground"),
        *(
            "ctrt.cli.runtime.entering",
            "ctrt.runtime.creating",
            "ctrt.runtime.entering",
            "ctrt.runtime.waiting",
        ),
        *("ctrt.runtime.planner.containers", "ctrt.runtime.planner.entering"),
        *("ctrt.runtime.cgroup", "ctrt.runtime.host", "ctrt.runtime.operations.stand_in"),
        *("ctrt.oci.spec", "ctrt.linux.filters"),
    )
    assert loaded & {"os", "_socket", *HEAVY} == set()


def test_the_package_itself_loads_nothing_of_its_own():
    assert {name for name in loaded_by("ctrt") if name.startswith("ctrt")} == {"ctrt"}


def test_the_executor_knows_no_planning():
    """What runs in the launcher is the least that carries out a plan."""
    assert {name for name in loaded_by("ctrt.runtime.executor") if name.startswith("ctrt")} == {
        *("ctrt", "ctrt.linux", "ctrt.linux.calls", "ctrt.linux.clib", "ctrt.linux.capabilities"),
        "ctrt.linux.ospath",
        *("ctrt.runtime", "ctrt.runtime.executor", "ctrt.runtime.operations"),
        *(f"ctrt.runtime.operations.{name}" for name in ("context", "host", "mounts")),
        *("ctrt.runtime.operations.namespaces", "ctrt.runtime.operations.process"),
    }


def test_rooms_import_only_rooms_below_them():
    lint = Path(sys.executable).parent / "lint-imports"
    paths = [str(PACKAGE_PARENT)]
    kernel = PROJECT / "kernel"
    if (kernel / "ctrt_kernel").is_dir():
        paths.append(str(kernel))
    done = subprocess.run(
        [str(lint), "--no-cache", "--config", str(PROJECT / "pyproject.toml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    configured = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    contracts = configured["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def test_the_public_names():
    assert ctrt.__all__ == [
        *("CtrtError", "Engine", "draw", "load_ipython_extension", "observe", "pull", "run")
    ]
    for name in ctrt.__all__:
        assert getattr(ctrt, name) is not None
    with pytest.raises(AttributeError, match="module 'ctrt' has no attribute 'nothing'"):
        ctrt.nothing  # noqa: B018


def test_the_version_is_the_same_everywhere():
    configured = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert configured["project"]["version"] == ctrt.__version__
    try:
        installed = importlib.metadata.version("ctrt")
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == ctrt.__version__


def test_every_module_begins_with_its_idea():
    for path in sorted((PROJECT / "ctrt").rglob("*.py")):
        first = path.read_text().lstrip("r").lstrip()
        assert first.startswith('"""') or not first, path


def test_test_modules_have_names_of_their_own():
    """Pytest imports them by their base names."""
    names = [path.name for path in (PROJECT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
