"""Networks, platforms, squashing and the other options of a build."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import listing, merged, needs, run
from test_building import files, text

from ctrt.engine import Engine
from ctrt.engine.building import Event
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import layers
from ctrt.images.contents import Tree


def built(engine: Engine, recipe: str, **how: Any) -> str:
    """Build without the cache; what RUN printed."""
    said: list[bytes] = []

    def report(event: Event) -> None:
        said.append(event.data)

    engine.build(recipe, how.pop("context", None), "localhost/b", cache=False, report=report, **how)
    return b"".join(said).decode()


@pytest.fixture
def answering() -> Iterator[int]:
    """A port on loopback that says hello."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(b"hello\n")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_networks_of_run(engine: Engine, answering: int) -> None:
    ask = f"busybox nc -w 1 127.0.0.1 {answering} </dev/null || echo no"
    recipe = (
        f"FROM localhost/base\nRUN {ask}\nRUN --network=none {ask}\nRUN --network=default {ask}\n"
        f"RUN --network=host {ask}\nRUN --network=host cmp /etc/resolv.conf /proc/self/mounts;"
        " grep -c . /etc/resolv.conf; ls /sys/class/net | grep -c .\n"
    )
    lines = [line for line in built(engine, recipe).split("\n") if line in ("no", "hello")]
    assert lines == ["no", "no", "no", "hello"]
    found = files(engine, "localhost/b")
    assert "etc/resolv.conf" not in found, "it was only mounted"
    lines = [l for l in built(engine, recipe, network="host").split("\n") if l in ("no", "hello")]  # noqa: E741
    assert lines == ["hello", "no", "hello", "hello"]


def test_run_takes_the_network_of_the_host(engine: Engine, answering: int) -> None:
    script = f"busybox nc -w 1 127.0.0.1 {answering} </dev/null"
    for option in ("--network=host", "--net=host"):
        assert engine.run("localhost/base", ["sh", "-c", script], options=[option]).text() == (
            "hello\n"
        )
    names = {line.split()[1] for line in Path("/etc/hosts").read_text().splitlines()
             if len(line.split()) > 1 and not line.startswith("#")}  # fmt: skip
    hosts = engine.run("localhost/base", ["cat", "/etc/hosts"], options=["--network=host"]).text()
    assert names <= set(hosts.split())


def test_the_escape_directive(engine: Engine) -> None:
    assert built(engine, "# escape=`\nFROM localhost/base\nRUN echo one `\n  two\n") == "one two\n"
    with pytest.raises(CtrtError, match="escape must be"):
        built(engine, "# escape=x\nFROM localhost/base\n")


def test_what_run_refuses(engine: Engine) -> None:
    for line, sentence in (
        ("RUN --network=bridge x", "--network is one of default, none, host, not 'bridge'"),
        ("RUN --security=insecure x",
         "--security=insecure is not supported: RUN has the rights of ctrt run"),
        ("STOPSIGNAL SIGNOTHING", 'STOPSIGNAL: "SIGNOTHING" is no signal'),
    ):  # fmt: skip
        with pytest.raises(CtrtError) as caught:
            built(engine, f"FROM localhost/base\n{line}")
        assert str(caught.value) == f"Containerfile, line 2: {sentence}"
    assert built(engine, "FROM localhost/base\nRUN --security=sandbox echo x") == "x\n"


def test_proxies_are_lent_to_run_and_not_kept(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "of-the-host")
    recipe = (
        "FROM localhost/base\nENV FTP_PROXY=kept\nRUN echo [$HTTP_PROXY] [$no_proxy] [$FTP_PROXY]\n"
        "RUN --network=host echo [$HTTP_PROXY] [$no_proxy]\n"
    )
    arguments = {"HTTP_PROXY": "http://x:1", "FTP_PROXY": "other"}
    said = built(engine, recipe, arguments=arguments)
    assert said == "[http://x:1] [] [kept]\n[http://x:1] [of-the-host]\n"
    made = engine.store.find("localhost/b")
    assert made is not None
    assert "x:1" not in json.dumps(made.config)
    events: list[Event] = []
    engine.build(recipe, None, "localhost/b", arguments={"HTTP_PROXY": "another"},
                 report=events.append)  # fmt: skip
    assert [event.kind for event in events].count("cached") == 2, "a proxy is no reason"


def test_platforms(engine: Engine) -> None:
    made = engine.build(
        "ARG TARGETPLATFORM\nFROM --platform=$TARGETPLATFORM scratch AS foreign\n"
        "ARG TARGETARCH\nARG TARGETVARIANT\nARG BUILDOS\n"
        "LABEL for=$TARGETARCH$TARGETVARIANT on=$BUILDOS\n"
        "COPY <<EOF /x\nx\nEOF\n",
        None,
        "localhost/foreign",
        platform="linux/arm/v7",
    )
    assert made.config["config"]["Labels"] == {"for": "armv7", "on": "linux"}
    assert (made.config["architecture"], made.config["variant"]) == ("arm", "v7")
    again = engine.build("FROM localhost/foreign\nLABEL y=z", None, "localhost/again",
                         platform="linux/arm/v7", pull="never")  # fmt: skip
    assert again.config["architecture"] == "arm"
    with pytest.raises(CtrtError, match="there is no image localhost/foreign for linux/s390x"):
        engine.build("FROM localhost/foreign", None, "localhost/x",
                     platform="linux/s390x", pull="never")  # fmt: skip
    with pytest.raises(CtrtError, match='"arm" is not a platform'):
        engine.build("FROM scratch\nLABEL x=y", None, "localhost/x", platform="arm")
    native = engine.build("FROM --platform=$BUILDPLATFORM localhost/base\nLABEL x=y", None,
                          "localhost/native", platform="linux/s390x")  # fmt: skip
    assert native.config["architecture"] == "amd64" or os.uname().machine != "x86_64"


SQUASHED = """FROM localhost/base AS below
RUN mkdir -p /d/gone /d/kept && echo 1 > /d/gone/a && echo 1 > /d/kept/a && echo l > /d/linked
FROM below
RUN rm -r /d/gone && echo 2 > /d/kept/a && mkfifo /pipe
RUN rm /etc/group && mkdir /d/gone && echo new > /d/gone/b && ln /d/gone/b /hard && chmod 711 /d
RUN rm -r /d/kept && ln -s gone /d/kept && rm /pipe && touch -d @5 /d/linked && ln /d/linked /d/l2
COPY --chown=1:2 <<EOF /last
last
EOF
ENV X=1
"""


@pytest.mark.parametrize("squash", ["new", "all"])
def test_squashing_changes_nothing_but_the_layers(engine: Engine, squash: str) -> None:
    plain = engine.build(SQUASHED, None, "localhost/plain")
    base = engine.store.find("localhost/base")
    assert base is not None
    made = engine.build(SQUASHED, None, "localhost/squashed", squash=squash)
    below = len(base.layers) if squash == "new" else 0
    assert len(made.layers) == below + 1 < len(plain.layers)
    assert made.layers[:below] == made.layers[:0] or [
        layer.digest for layer in made.layers[:below]
    ] == [layer.digest for layer in base.layers]
    history = [entry for entry in made.config["history"] if not entry.get("empty_layer")]
    assert len(history) == len(made.layers)
    assert len(made.config["history"]) == len(plain.config["history"])
    assert made.config["config"] == plain.config["config"]
    trees = [merged(layers.unpack(engine.store, i, layers.Unpacker("root"))) for i in (plain, made)]
    for tree in trees:
        for path in (".", "d", "etc"):  # removing in them left no time of its own to keep
            tree["entries"][path][3] = None
    assert trees[0]["entries"] == trees[1]["entries"]
    assert trees[0]["links"] == trees[1]["links"]
    assert engine.run("localhost/squashed", ["cat", "/hard", "/d/kept/b"]).text() == "new\nnew\n"
    assert "etc/group" not in Tree.of(engine.store, made.layers).nodes


def test_podman_sees_the_same_in_a_squashed_image(
    engine: Engine, tmp_path: Path, podman: list[str]
) -> None:
    needs("podman")
    made = engine.build(SQUASHED, None, "localhost/squashed", squash="new")
    identity = run(*podman, "pull", "-q", f"oci:{engine.store.root}:localhost/squashed:latest")
    place = run(*podman, "image", "mount", identity.strip()).strip()
    try:
        theirs = listing(place)
    finally:
        run(*podman, "image", "umount", identity.strip())
    ours = merged(layers.unpack(engine.store, made, layers.Unpacker("root")))
    del ours["entries"]["."], theirs["entries"]["."]  # no entry describes it
    assert ours == theirs
    run(*podman, "rmi", "-f", identity.strip())


def build(engine: Engine, *words: str) -> str:
    return str(VERBS["build"](engine, ["-q", *words]))


def test_the_verb(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Containerfile").write_text("FROM localhost/base\nCOPY . /c\nRUN echo 1 > /one\n")
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "ignore").write_text("*\n!a\n")
    words = ["-t", "localhost/v1", "-t", "localhost/v2:3", "--label=k=v", "--pull=never",
             "--ignorefile", f"{tmp_path}/ignore", "--iidfile", f"{tmp_path}/iid", "--layers=false",
             "--force-rm", "--network=host", "--tls-verify=false", str(tmp_path)]  # fmt: skip
    assert build(engine, *words) == "localhost/v1:latest"
    one, two = engine.store.find("localhost/v1"), engine.store.find("localhost/v2:3")
    assert one is not None
    assert two is not None
    assert one.digest == two.digest
    assert (tmp_path / "iid").read_text() == one.id
    assert one.config["config"]["Labels"] == {"k": "v"}
    assert {path for path in files(engine, "localhost/v1") if path.startswith("c")} == {"c", "c/a"}
    base = engine.store.find("localhost/base")
    assert base is not None
    assert len(one.layers) == len(base.layers) + 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("FROM localhost/base\nLABEL from=stdin\n"))
    assert build(engine, "-t", "localhost/dash", "-") == "localhost/dash:latest"
    monkeypatch.setattr(sys, "stdin", io.StringIO("FROM scratch\nCOPY a /from-stdin\n"))
    build(engine, "-t", "localhost/dash", "-f", "-", str(tmp_path))
    assert text(engine, "localhost/dash", "from-stdin") == "a"
    monkeypatch.setattr(sys, "stdin", io.StringIO("FROM scratch\nCOPY a /x\n"))
    for words, sentence in (
        (["-"], "standard input, line 2: COPY needs a build context; none was given"),
        (["/none"], "build: the context /none is no directory"),
        (["-f", "/none", str(tmp_path)], "build: /none cannot be read: No such file or directory"),
        (["--iidfile=/none/x", str(tmp_path)],
         "build: /none/x cannot be written: No such file or directory"),
        (["--platform=x", str(tmp_path)],
         '"x" is not a platform; expected one like linux/amd64 or linux/arm/v7'),
    ):  # fmt: skip
        with pytest.raises(CtrtError) as caught:
            build(engine, *words)
        assert str(caught.value) == sentence
