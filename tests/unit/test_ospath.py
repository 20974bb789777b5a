"""What is taken for `os` and `os.path` answers as they do."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctrt.linux import ospath

PATHS = st.text("/.ab", max_size=12)


@given(PATHS)
@example("//a/../..")
@example("///a")
@example("../../a/..")
@example("")
def test_paths_by_their_words(path):
    assert ospath.normal(path) == os.path.normpath(path)
    assert ospath.absolute(path) == os.path.abspath(path)
    assert ospath.last(path) == os.path.basename(path)


@given(st.binary(max_size=12))
def test_any_bytes_are_a_name(name):
    assert ospath.decoded(name) == os.fsdecode(name)
    assert ospath.encoded(os.fsdecode(name)) == name
    assert ospath.encoded(name) == name


def test_what_is_at_a_path(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "file", "file/", "file/.", "link", "lost", "pipe", "none", "a\0b"):
        path = f"{tmp_path}/{name}"
        assert ospath.exists(path) == os.path.exists(path), name
        assert ospath.is_directory(path) == os.path.isdir(path), name
        assert ospath.is_file(path) == os.path.isfile(path), name
        assert ospath.is_link(path) == os.path.islink(path), name


@pytest.mark.parametrize("value", ["", "x", "ä\udcff"])
def test_a_variable(monkeypatch, value):
    # `posix.environ` is what the interpreter was started with.
    monkeypatch.setattr("posix.environ", {b"NAME": os.fsencode(value)})
    assert ospath.variable("NAME") == value
    assert ospath.variable("OTHER") == ""
