"""What the plugin of pytest changes in nbval, tried with small notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from kernel_tools import IMAGE
from nbclient import NotebookClient

MIME = "application/vnd.ctrt.graph.v1+json"


def notebook(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": "ctrt", "display_name": "ctrt", "language": "python"}},
    )


def executed(*sources: str) -> nbformat.NotebookNode:
    made = notebook(*sources)
    NotebookClient(made, timeout=60, store_widget_state=False).execute()
    return made


def validate(
    made: nbformat.NotebookNode, path: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    nbformat.write(made, path)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "ctrt_kernel.pytest_plugin", "--nbval", *options, str(path)),
        ],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def drawn() -> nbformat.NotebookNode:
    return executed(f"%%container --graph {IMAGE}\necho hi", "print('no container')")


def test_a_picture_comes_again(drawn: nbformat.NotebookNode, tmp_path: Path) -> None:
    result = validate(drawn, tmp_path / "same.ipynb")
    assert result.returncode == 0, result.stdout


def test_another_directory_store_and_kernel_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that a cell shows, but what it is asked to show of this very run."""
    made = executed(
        f"%%container --graph {IMAGE}\nid -u; echo $$; pwd",
        f"%%container --bg=job {IMAGE}\nsleep 0.3",
        "job.wait(), job",
        f"%%container --as one {IMAGE}\nmkdir /data",
        "%%container --in one --graph\nls -d /data",
        "%ctrt graph mounts one",
        "%ctrt graph ids one",
        "%ctrt diff one",
        f"%%container --plan --memory 64m {IMAGE}\ntrue",
        f"%%container --step {IMAGE}\ntrue",
        "%%unshare -Urnu --graph\nid -u",  # the mounts are the machine's, and may change
        "%%caps --drop ALL --add kill --graph\ngrep CapEff /proc/self/status",
        f"%%image --timestamp 0 localhost/test/made\nFROM {IMAGE}\nRUN echo hello > /greeting",
        f"%ctrt images {IMAGE} localhost/test/made",
        f"%ctrt graph image {IMAGE}",
        "%ctrt stop one",
    )
    from ctrt.engine import Engine
    from ctrt.engine.verbs import VERBS

    before = Engine()
    monkeypatch.setenv("CTRT_ROOT", str(tmp_path / "a" / "store"))
    engine = Engine()
    try:
        archive = str(tmp_path / "image.tar")
        VERBS["save"](before, ["--format", "oci-archive", "-o", archive, IMAGE])
        VERBS["load"](engine, ["-i", archive])
        (tmp_path / "a" / "b").mkdir()
        result = validate(made, tmp_path / "a" / "b" / "elsewhere.ipynb")
        assert result.returncode == 0, result.stdout
    finally:
        before.remove_image("localhost/test/made")
        before.close()
        engine.destroy()


def test_an_error_that_is_expected_is_one(tmp_path: Path) -> None:
    """The tag `raises-exception`: the cells after it run, and its error is compared."""
    made = notebook(f"%%container {IMAGE}\nexit 7", "print('after')")
    made.cells[0].metadata.tags = ["raises-exception"]
    NotebookClient(made, timeout=60, store_widget_state=False).execute()
    assert made.cells[0].outputs[-1].ename == "ContainerError"
    assert validate(made, tmp_path / "raises.ipynb").returncode == 0
    made.cells[0].outputs[-1].evalue = "another"
    assert validate(made, tmp_path / "raises.ipynb").returncode == 1


def test_the_json_form_is_not_compared(drawn: nbformat.NotebookNode, tmp_path: Path) -> None:
    changed = nbformat.from_dict(drawn)
    (picture,) = (o for o in changed.cells[0].outputs if o.output_type == "display_data")
    picture.data[MIME] = {**picture.data[MIME], "width": 1}
    assert validate(changed, tmp_path / "json.ipynb").returncode == 0
    picture.data["text/plain"] += "changed"
    assert validate(changed, tmp_path / "text.ipynb").returncode == 1


def test_a_wrong_status_is_seen_even_by_a_lax_run(tmp_path: Path) -> None:
    failing = notebook(f"%%container {IMAGE}\nexit 1", "%ctrt nonesuch")
    result = validate(failing, tmp_path / "lax.ipynb", "--nbval-lax")
    assert "2 failed" in result.stdout


def test_a_dead_kernel_fails_at_once(tmp_path: Path) -> None:
    dying = notebook("import os; os.kill(os.getpid(), 9)", "1")
    start = time.monotonic()
    result = validate(dying, tmp_path / "dying.ipynb")
    assert time.monotonic() - start < 60
    assert result.returncode == 1
    assert "the kernel died while it ran this cell" in result.stdout


def test_pytest_without_nbval_does_not_care(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ctrt_kernel.pytest_plugin", "-p", "no:nbval"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
