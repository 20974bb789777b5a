"""ADD of what is elsewhere: files by HTTP, trees of git repositories by a real git daemon."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import needs, run
from test_building import files, text

from ctrt.engine import Engine
from ctrt.errors import CtrtError

DATA = os.urandom(700_000)
STAMP = 1_500_000_000


class Files(BaseHTTPRequestHandler):
    """Some answers that a server may give."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/some/with%20blank.bin?x=1")
            self.end_headers()
        elif path in ("/some/with%20blank.bin", "/cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.send_header("Last-Modified", self.date_time_string(STAMP))
            self.end_headers()
            self.wfile.write(DATA if path != "/cut" else DATA[:1000])
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def git(place: Path, *words: str) -> str:
    return run(
        "git", "-C", str(place), "-c", "user.name=n", "-c", "user.email=e@x",
        "-c", "protocol.file.allow=always", *words,
    ).strip()  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A repository served by git itself: two commits, a tag, a branch, a submodule."""
    needs("git")
    if not Path(run("git", "--exec-path").strip(), "git-daemon").exists():
        pytest.skip("needs git-daemon")
    place = tmp_path_factory.mktemp("git")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("part", "whole"):
        (place / name).mkdir()
        git(place / name, "init", "-q", "-b", "main")
    (place / "part/inner").write_text("of the submodule")
    git(place / "part", "add", ".")
    git(place / "part", "commit", "-qm", "x")
    whole = place / "whole"
    (whole / "src/deep").mkdir(parents=True)
    (whole / "src/deep/file").write_text("one")
    (whole / "src/tool").write_text("#!")
    (whole / "src/tool").chmod(0o755)
    (whole / "src/link").symlink_to("tool")
    git(whole, "add", ".")
    git(whole, "commit", "-qm", "one")
    git(whole, "tag", "-m", "first", "v1")
    (whole / "src/deep/file").write_text("two")
    git(whole, "submodule", "--quiet", "add", f"{place}/part", "part")
    git(whole, "config", "-f", ".gitmodules", "submodule.part.url",
        f"git://127.0.0.1:{port}/part")  # fmt: skip
    git(whole, "add", ".gitmodules")
    git(whole, "commit", "-qam", "two")
    commits = {"v1": git(whole, "rev-parse", "v1^0"), "main": git(whole, "rev-parse", "main")}
    child = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={place}", "--listen=127.0.0.1",
         f"--port={port}", "--reuseaddr", str(place)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.02)
    yield f"git://127.0.0.1:{port}/whole", commits
    os.killpg(child.pid, 15)
    child.wait()


def test_add_of_an_address(engine: Engine, web: str) -> None:
    checksum = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    engine.build(
        f"FROM scratch\nADD {web}/some/with%20blank.bin /into/\n"
        f"ADD --checksum={checksum} --chmod=755 --chown=3:4 {web}/moved /named\n",
        None,
        "localhost/fetched",
    )
    found = files(engine, "localhost/fetched")
    plain, named = found["into/with blank.bin"].item, found["named"].item
    assert plain.digest == named.digest == checksum[7:]
    assert (plain.mode, plain.mtime_ns) == (0o600, STAMP * 10**9)
    assert (named.mode, named.uid, named.gid) == (0o755, 3, 4)
    assert os.listdir(engine.store.path("tmp")) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ADD {web}/none /x", "{web}/none answers with HTTP 404"),
        ("ADD {web}/ /x", "{web}/ ends in no file name"),
        ("ADD {web}/%2e%2e /x", "{web}/%2e%2e ends in no file name"),
        ("ADD ftp://127.0.0.1/x /x", "ftp://127.0.0.1/x is neither http:// nor https://"),
        ("ADD http://127.0.0.1:1/x /x",
         "http://127.0.0.1:1/x cannot be fetched: connection refused"),
        ("ADD --checksum=sha256:{zeros} {web}/moved /x",
         "{web}/moved has the digest sha256:{digest}, not sha256:{zeros}"),
        ("ADD --checksum=sha256:{zeros} here /x", "--checksum: here is not fetched"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched(
    engine: Engine, web: str, tmp_path: Path, line: str, sentence: str
) -> None:
    (tmp_path / "here").write_text("x")
    known = {"web": web, "zeros": "0" * 64, "digest": hashlib.sha256(DATA).hexdigest()}
    with pytest.raises(CtrtError) as caught:
        engine.build(f"FROM scratch\n{line.format(**known)}", str(tmp_path), "localhost/x")
    assert str(caught.value) == f"Containerfile, line 2: {sentence.format(**known)}"
    assert os.listdir(engine.store.path("tmp")) == []


def test_a_cut_download_leaves_nothing(engine: Engine, web: str) -> None:
    with pytest.raises(CtrtError, match=r"^Containerfile, line 2: \S+/cut cannot be fetched: "):
        engine.build(f"FROM scratch\nADD {web}/cut /x", None, "localhost/x")
    assert os.listdir(engine.store.path("tmp")) == []


def test_add_of_a_repository(engine: Engine, repository: tuple[str, dict[str, str]]) -> None:
    url, commits = repository
    engine.build(
        f"FROM scratch\nADD {url} /whole\nADD {url}#v1 /tagged/\n"
        f"ADD --checksum={commits['v1']} {url}#v1:src/deep /part\n"
        f"ADD {url}#{commits['v1']} /commit\n"
        f"ADD --keep-git-dir=true --chown=5:6 {url}#main:/ /kept\n",
        None,
        "localhost/cloned",
    )
    found = files(engine, "localhost/cloned")
    assert text(engine, "localhost/cloned", "whole/src/deep/file") == "two"
    assert text(engine, "localhost/cloned", "whole/part/inner") == "of the submodule"
    assert text(engine, "localhost/cloned", "tagged/src/deep/file") == "one"
    assert text(engine, "localhost/cloned", "part/file") == "one"
    assert text(engine, "localhost/cloned", "commit/src/deep/file") == "one"
    assert (found["whole/src/tool"].item.mode, found["whole/src/link"].item.link) == (
        0o755, "tool",
    )  # fmt: skip
    assert not [path for path in found if ".git" in path.split("/") and "kept" not in path]
    assert found["kept/.git/HEAD"].item.uid == 5
    with pytest.raises(CtrtError, match=f"is at the commit {commits['v1']}, not 0000"):
        engine.build(f"FROM scratch\nADD --checksum=0000 {url}#v1 /x", None, "localhost/x")
    with pytest.raises(CtrtError, match="has no /none"):
        engine.build(f"FROM scratch\nADD {url}#v1:none /x", None, "localhost/x")
    with pytest.raises(CtrtError, match=r"cannot be fetched: .*nothing") as caught:
        engine.build(f"FROM scratch\nADD {url}#nothing /x", None, "localhost/x")
    assert "\n" not in str(caught.value)
    assert os.listdir(engine.store.path("tmp")) == []


def test_without_git_it_is_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CtrtError, match="the program git is not installed here"):
        engine.build("FROM scratch\nADD git@x:y.git /x", None, "localhost/x")
