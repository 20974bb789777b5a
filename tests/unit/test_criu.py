"""What criu is asked for, as it would read it: no criu is needed to look at a request."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from ctrt.runtime import criu


def asked(images: Path, last: bytes) -> bytes:
    """The configuration file that a request to save names."""
    worker = criu.Criu("criu")
    try:
        worker.ask(
            criu.DUMP, str(images), [("root", 'a "b"'), ("leave-running", "")], pid=1, last=last
        )
        with socket.socket(fileno=os.dup(worker.theirs)) as theirs:
            request = theirs.recv(65536)
        (path,) = re.findall(rb"/proc/\d+/fd/\d+", request)
        with open(path, "rb") as file:
            return file.read()
    finally:
        worker.close()


def test_a_file_of_options_counts_last(tmp_path: Path) -> None:
    own = tmp_path / "own.conf"
    own.write_bytes(b"# of this container\ntcp-close\n")
    last = criu.configured({"org.criu.config": str(own)})
    assert asked(tmp_path, last) == (
        b'root "a \\"b\\""\nleave-running \n# of this container\ntcp-close\n'
    )


def test_the_usual_file_counts_where_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tmp_path / "runc.conf"
    monkeypatch.setattr(criu, "_USUAL_FILE", str(usual))
    assert criu.configured(None) == b""  # there is none
    usual.write_bytes(b"ghost-limit 1M\n")
    for others in (None, {}, {"other": "x"}):
        assert criu.configured(others) == b"ghost-limit 1M\n"
    for none in ("", str(tmp_path / "none"), str(tmp_path)):
        assert criu.configured({"org.criu.config": none}) == b""
