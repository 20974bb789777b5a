"""`ctrt kernel list` and `ctrt kernel remove`: the kernels that ctrt has made, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ipykernel.kernelspec import write_kernel_spec
from kernel_tools import IMAGE, PROJECT, Kernel

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS, kernels
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def engine(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine, and directories of kernels for this user and this environment.

    The image is believed to have a Python with an ipykernel: none is started here.
    """
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "pyvenv.cfg").write_text("")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "bin" / "python"))
    words = ["/usr/bin/python3", "3.12", "linux-x86_64", "glibc-2.36", "True", "True"]
    monkeypatch.setattr(kernels, "_ask", lambda *_: kernels._Python(words))
    made = Engine()
    yield made
    made.close()


def _kernel(engine: Engine, *words: str) -> str:
    return str(VERBS["kernel"](engine, words))


def _said(engine: Engine, *words: str) -> str:
    with pytest.raises(CtrtError) as caught:
        _kernel(engine, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _rows(engine: Engine, *words: str) -> list[tuple[str, ...]]:
    return list(VERBS["kernel"](engine, ["list", *words]).rows)


def test_what_was_made_is_listed_and_removed(engine: Engine, tmp_path: Path) -> None:
    assert _rows(engine) == []
    user = str(tmp_path / "user" / "kernels")
    environment = str(tmp_path / "environment" / "share" / "jupyter" / "kernels")
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine", "--display-name", "My own")
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine", "--sys-prefix")
    _kernel(engine, "install", "--image", IMAGE)
    named = "ctrt-localhost-test-shell"
    usual = f"Python 3.12 ({IMAGE})"
    assert _rows(engine) == [
        (named, IMAGE, usual, user),
        ("mine", IMAGE, "My own", user),
        ("mine", IMAGE, usual, environment),
    ]
    assert _rows(engine, "--sys-prefix") == [("mine", IMAGE, usual, environment)]
    assert _kernel(engine, "remove", "mine", named, "mine") == (
        f"the kernel mine is no longer in {user}\nthe kernel {named} is no longer in {user}"
    )
    assert os.listdir(user) == []
    assert _kernel(engine, "uninstall", "mine") == f"the kernel mine is no longer in {environment}"
    assert _rows(engine) == []


def test_of_two_of_a_name_the_option_chooses(engine: Engine) -> None:
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine")
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine", "--sys-prefix")
    user, _ = (row[3] for row in _rows(engine))
    _kernel(engine, "remove", "--sys-prefix", "mine")
    assert [row[3] for row in _rows(engine)] == [user]


def test_what_others_made_is_neither_listed_nor_removed(engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "user" / "kernels"
    write_kernel_spec(place / "python3")
    for name, text in (
        ("text", "{"),
        ("list", "[]"),
        ("empty", "{}"),
        ("number", '{"argv": 7}'),
        ("other", '{"argv": ["python3", "-m", "ctrt_kernel", "-f", "{connection_file}"]}'),
        ("bare", '{"argv": ["python3", "-m", "ctrt_kernel.inside"]}'),
        ("last", '{"argv": ["python3", "-m", "ctrt_kernel.inside", "--image"]}'),
        ("deep", "[" * 100_000),
    ):
        (place / name).mkdir()
        (place / name / "kernel.json").write_text(text)
    (place / "nothing").mkdir()
    (place / "file").write_text("")
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine")
    assert [row[0] for row in _rows(engine)] == ["mine"]
    before = sorted(os.listdir(place))
    for name in before:
        if name != "mine":
            assert _said(engine, "remove", "mine", name) == (
                f"kernel remove: the kernel {name} in {place} was not made by ctrt kernel install"
            )
    assert sorted(os.listdir(place)) == before


def test_a_link_goes_and_not_what_it_leads_to(engine: Engine, tmp_path: Path) -> None:
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine")
    place = tmp_path / "user" / "kernels"
    (place / "mine").rename(tmp_path / "elsewhere")
    (place / "mine").symlink_to(tmp_path / "elsewhere")
    _kernel(engine, "remove", "mine")
    assert os.listdir(place) == []
    assert json.loads((tmp_path / "elsewhere" / "kernel.json").read_text())["argv"]


def test_mistakes_get_one_sentence(engine: Engine, tmp_path: Path) -> None:
    _kernel(engine, "install", "--image", IMAGE, "--name", "mine")
    assert _said(engine, "remove", "mime") == (
        "kernel remove: there is no kernel 'mime'; did you mean mine?"
    )
    for name in ("zzz", "", ".", "..", "../kernels/mine", str(tmp_path)):
        said = _said(engine, "uninstall", name)
        assert said.startswith(f"kernel uninstall: there is no kernel {name!r}; ")
    assert _said(engine, "remove") == ("kernel remove: name a kernel, as ctrt kernel list shows it")
    assert _said(engine, "lst") == (
        "kernel: expected install, list or remove, got lst; did you mean list?"
    )
    assert _said(engine, "list", "mine") == "kernel list: expected no name, got mine"
    assert _said(engine, "list", "--volume", "/a:/a") == (
        "kernel list: --volume goes only with kernel install"
    )
    assert _said(engine, "install", "mine") == "kernel install: it takes --name NAME, not mine"
    assert _said(engine) == "kernel: expected install | list | remove KERNEL..., got nothing"
    assert [row[0] for row in _rows(engine)] == ["mine"]


def test_the_command_knows_its_environment(store: Path) -> None:
    """It runs without `site`, and sys.prefix is then that of the Python behind a venv's."""
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
    code += "from ctrt.engine.verbs.kernels import _data_directory; print(_data_directory(True))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{sys.prefix}/share/jupyter\n"


def test_in_a_notebook_too(kernel: Kernel, tmp_path: Path) -> None:
    directory = tmp_path / "kernels" / "from-notebook"
    directory.mkdir(parents=True)
    words = ["python3", "-m", "ctrt_kernel.inside", "-f", "{connection_file}", "--image", IMAGE]
    (directory / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "<b>"}))
    before = kernel.good("import os; os.environ['JUPYTER_DATA_DIR']").result["text/plain"]
    kernel.good(f"os.environ['JUPYTER_DATA_DIR'] = {str(tmp_path)!r}")
    try:
        listed = kernel.good("%ctrt kernel list").result
        assert "&lt;b&gt;" in listed["text/html"]
        assert kernel.completions("%ctrt kernel ") != []
        assert sorted(kernel.completions("%ctrt kernel l")) == ["list"]
        assert kernel.completions("%ctrt kernel remove from") == ["from-notebook"]
        assert kernel.completions("%ctrt kernel list from") == []
        assert IMAGE in kernel.completions("%ctrt kernel install --image localhost/")
        assert "list | remove KERNEL..." in str(kernel.good("%ctrt kernel --help").result)
        assert kernel.bad("%ctrt kernel remove from-notebok") == (
            "CtrtError: kernel remove: there is no kernel 'from-notebok'; "
            "did you mean from-notebook?"
        )
        said = kernel.good("%ctrt kernel remove from-notebook").result["text/plain"]
        assert said == f"the kernel from-notebook is no longer in {tmp_path}/kernels"
        assert not directory.exists()
    finally:
        kernel.good(f"os.environ['JUPYTER_DATA_DIR'] = {before}")
