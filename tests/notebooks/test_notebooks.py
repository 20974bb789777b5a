"""The notebooks give what they say: nbval runs them and compares the stored outputs.

As root and as ordinary users, with and without subordinate ids, and twice on the same store:
a second run finds the images that the first one pulled.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

# As where their outputs were stored: what other tests mount meanwhile is not there to be counted.
APART = ("unshare", "--mount", "--propagation", "private") if os.geteuid() == 0 else ()
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=["root", "subordinate", "single"])
def reader(request: pytest.FixtureRequest):
    """Who opens the notebook; without root just the one who runs the tests."""
    if os.geteuid() != 0 and request.param != "root":
        pytest.skip("root is needed to become another user")
    return request.getfixturevalue(f"{request.param}_world")


@pytest.mark.usefixtures("notebook_ports")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_come_again(reader, notebook: Path) -> None:
    copy = reader.home / notebook.name
    shutil.copy(notebook, copy)
    copy.chmod(0o644)
    for _ in range(2):
        command = reader.words(
            *(str(reader.bin / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "ctrt_kernel.pytest_plugin", "--nbval", "--nbval-cell-timeout=120"),
            str(copy),
        )
        result = reader._replace(user=None).run(*APART, *command, timeout=280)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_executed_and_without_a_trace_of_the_machine(notebook: Path) -> None:
    stored = nbformat.read(notebook, as_version=4)
    nbformat.validate(stored)
    assert stored.metadata.kernelspec.name == "ctrt"
    assert "widgets" not in stored.metadata
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all("execution" not in cell.metadata for cell in code)
    text = notebook.read_text()
    for place in ("/tmp/", "/home/", "/root/", "site-packages"):
        assert place not in text
    for cell in code:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert bool(errors) == ("raises-exception" in cell.metadata.get("tags", []))
        assert all(len(error.traceback) == 1 for error in errors)


def test_most_outputs_are_compared() -> None:
    for notebook in NOTEBOOKS:
        cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
        ignored = [c for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
        assert len(ignored) <= len(cells) / 8
