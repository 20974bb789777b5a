"""Building: what instructions do, what is remembered, and that others run what comes out."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import needs, run

from ctrt.engine import Engine
from ctrt.engine.building import Event, caches
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import compose
from ctrt.images.contents import Tree, read

EPOCH = 1_600_000_000_000_000_000


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "src/deep").mkdir(parents=True)
    (place / "a.txt").write_text("A\n")
    (place / "b.txt").write_text("B\n")
    (place / "b.txt").chmod(0o600)
    (place / "src/one.c").write_text("1")
    (place / "src/deep/two.c").write_text("2")
    (place / "src/skip.o").write_text("object")
    (place / "src/link").symlink_to("one.c")
    (place / ".containerignore").write_text("# comment\n**/*.o\nsecret\n!src/kept.o\n")
    (place / "src/kept.o").write_text("kept")
    (place / "secret").write_text("s")
    with tarfile.open(place / "files.tar.gz", "w:gz") as archive:
        archive.add(place / "a.txt", "in/a.txt")
    return place


def files(engine: Engine, name: str) -> dict[str, Any]:
    image = engine.store.find(name)
    assert image is not None
    return Tree.of(engine.store, image.layers).nodes


def text(engine: Engine, name: str, path: str) -> str:
    image = engine.store.find(name)
    assert image is not None
    node = Tree.of(engine.store, image.layers).get(path)
    assert node is not None
    return read(engine.store, image.layers, node).decode()


def test_copy_in_all_its_forms(engine: Engine, context: Path) -> None:
    engine.build(
        """
        FROM localhost/base
        WORKDIR /w/x
        COPY a.txt .
        COPY *.txt globbed/
        COPY src /src
        COPY --chown=7:8 --chmod=640 b.txt /owned
        COPY --chown=nobody a.txt /nobody
        COPY ["a.txt", "with blank"]
        COPY <<EOF <<'RAW' /here/
        home is $HOME2
EOF
        home is $HOME2
RAW
        ADD files.tar.gz /unpacked/
        ENV HOME2=unused
        """.replace("        FROM", "FROM"),
        str(context),
        "localhost/copied",
    )
    found = files(engine, "localhost/copied")
    assert {"w/x/a.txt", "w/x/globbed/a.txt", "w/x/globbed/b.txt", "w/x/with blank"} <= set(found)
    assert {"src/one.c", "src/deep/two.c", "src/link", "src/kept.o"} <= set(found)
    assert "src/skip.o" not in found
    assert found["src/link"].item.link == "one.c"
    assert found["w/x/globbed/b.txt"].item.mode == 0o600
    owned = found["owned"].item
    assert (owned.uid, owned.gid, owned.mode) == (7, 8, 0o640)
    assert (found["nobody"].item.uid, found["nobody"].item.gid) == (65534, 65534)
    assert text(engine, "localhost/copied", "here/EOF").strip() == "home is"
    assert text(engine, "localhost/copied", "here/RAW").strip() == "home is $HOME2"
    assert text(engine, "localhost/copied", "unpacked/in/a.txt") == "A\n"
    with pytest.raises(CtrtError, match="line 2: the build context has no secret"):
        engine.build("FROM localhost/base\nCOPY secret /", str(context), "localhost/no")


def test_copy_with_parents_and_without_what_is_excluded(engine: Engine, context: Path) -> None:
    (context / "src").chmod(0o711)
    base = "FROM scratch\nCOPY --parents src/./deep /pivot"
    engine.build(base, str(context), "localhost/parents-base")
    engine.build(
        """FROM scratch
COPY --parents src/deep/two.c a.txt /with/
COPY --parents src/./deep /pivot
COPY --parents --chown=3:4 src/*.c /globbed/
COPY --exclude=*.c --exclude=!one.c src /few/
COPY --exclude=src/deep --exclude=**/kept.* . /all/
COPY --exclude=b* *.txt /texts/
COPY --link --exclude=two.c --from=localhost/parents-base /pivot/deep /none/
""",
        str(context),
        "localhost/parents",
    )
    found = files(engine, "localhost/parents")
    assert {path for path in found if path.startswith("with/")} == {
        "with/a.txt", "with/src", "with/src/deep", "with/src/deep/two.c"
    }  # fmt: skip
    assert found["with/src"].item.mode == 0o711
    assert {path for path in found if path.startswith("pivot")} == {
        "pivot", "pivot/deep", "pivot/deep/two.c"
    }  # fmt: skip
    assert {path for path in found if path.startswith("globbed/")} == {
        "globbed/src", "globbed/src/one.c"
    }  # fmt: skip
    assert found["globbed/src/one.c"].item.uid == 3
    assert {path for path in found if path.startswith("few/")} == {
        "few/one.c", "few/kept.o", "few/link", "few/deep", "few/deep/two.c"
    }  # fmt: skip
    everything = {path for path in found if path.startswith("all/")}
    assert {"all/src/one.c", "all/a.txt", "all/src/link"} <= everything
    assert not any("deep" in path or "kept" in path for path in everything)
    assert {path for path in found if path.startswith("texts")} == {"texts", "texts/a.txt"}
    assert {path for path in found if path.startswith("none")} == {"none"}


def test_arguments_and_variables(engine: Engine) -> None:
    image = engine.build(
        """ARG WHICH=base
ARG GLOBAL=g
FROM localhost/$WHICH AS first
ARG GLOBAL
ARG LOCAL=default
ENV FROM_ARG=${LOCAL} BOTH="$GLOBAL and ${NONE:-fallback}" COST=\\$5
RUN echo "$LOCAL $FROM_ARG $BOTH $COST ${TARGETOS:-hidden}" > /said
FROM first
RUN echo "[$LOCAL]" >> /said
LABEL one=1 two="a b" three=$FROM_ARG
EXPOSE 80 53/udp 8000-8001
VOLUME ["/data", "/more"]
USER 5:6
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1m30s --retries=3 CMD true || exit 1
ONBUILD RUN echo later > /tmp/later
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT exec cat
CMD ["/said"]
""",
        None,
        "localhost/args",
        arguments={"LOCAL": "given"},
    )
    assert text(engine, "localhost/args", "said") == "given given g and fallback $5 hidden\n[]\n"
    config = image.config["config"]
    assert config["Labels"] == {"one": "1", "two": "a b", "three": "given"}
    assert sorted(config["ExposedPorts"]) == ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
    assert config["Volumes"] == {"/data": {}, "/more": {}}
    assert config["User"] == "5:6"
    assert config["StopSignal"] == "SIGUSR1"
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true || exit 1"], "Interval": 90 * 10**9, "Retries": 3,
    }  # fmt: skip
    assert config["Entrypoint"] == ["/bin/sh", "-ec", "exec cat"]
    child = engine.build("FROM localhost/args\nUSER 0", None, "localhost/child")
    assert text(engine, "localhost/child", "tmp/later") == "later\n"
    assert "OnBuild" not in child.config["config"]


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        ("FROM x", "has ONBUILD FROM: not allowed"),
        ("ONBUILD USER 0", "has ONBUILD ONBUILD: not allowed"),
        ("NOTHING", "there is no instruction NOTHING"),
    ],
)
def test_triggers_of_a_stranger_s_image_are_checked(engine: Engine, trigger: str, why: str) -> None:
    image = engine.build("FROM localhost/base", None, "localhost/stranger")
    config = {**image.config, "config": {"OnBuild": [trigger]}}
    engine.store.tag(
        "localhost/stranger",
        compose.add_manifest(engine.store, config, compose.blobs(image)),
    )
    with pytest.raises(CtrtError, match=f"Containerfile, line 1: .*{why}"):
        engine.build("FROM localhost/stranger", None, "localhost/child")


def test_run_leaves_what_it_did_and_nothing_else(engine: Engine) -> None:
    seen: list[Event] = []
    engine.build(
        """FROM localhost/base
RUN mkdir -p /made/dir && chmod 1777 /made && chown 12:34 /made/dir && echo hello \\
    # a comment in between
    && rm /etc/passwd && mkfifo /made/fifo && touch /made/x && ln /made/x /made/hard
RUN ["touch", "exec form"]
RUN <<EOF
cat > /script <<INNER
inner
INNER
EOF
RUN cat <<EOF > /fed
fed
EOF
RUN exit 0
""",
        None,
        "localhost/ran",
        report=seen.append,
    )
    image = engine.store.find("localhost/ran")
    assert image is not None
    changes = Tree.of(engine.store, image.layers).changes
    assert [(change.path, change.what) for change in changes[1]] == [
        ("etc/passwd", "deleted"),
        ("made", "added"),
        ("made/dir", "added"),
        ("made/fifo", "added"),
        ("made/hard", "added"),
        ("made/x", "added"),
    ]
    found = files(engine, "localhost/ran")
    assert found["made"].item.mode == 0o1777
    assert (found["made/dir"].item.uid, found["made/dir"].item.gid) == (12, 34)
    assert [change.path for change in changes[2]] == ["exec form"]
    assert text(engine, "localhost/ran", "script") == "inner\n"
    assert text(engine, "localhost/ran", "fed") == "fed\n"
    assert changes[-1] == [], "no trace of the places that were only mounted upon"
    assert [event.data for event in seen if event.kind == "stdout"] == [b"hello\n"]
    assert engine.states() == []


def test_only_stages_that_are_needed_are_built(engine: Engine, context: Path) -> None:
    steps: list[str] = []
    engine.build(
        """FROM localhost/base AS tools
RUN echo built > /tool
FROM localhost/base AS never
RUN exit 1
FROM scratch AS last
COPY --from=tools /tool /bin/sh /bin/
COPY --from=localhost/base /etc/group /etc/
COPY --from=0 /tool /by-number
""",
        str(context),
        "localhost/staged",
        report=lambda event: steps.append(event.text) if event.kind == "step" else None,
    )
    assert not any("exit 1" in step for step in steps)
    found = files(engine, "localhost/staged")
    assert {"bin/tool", "etc/group", "by-number"} <= set(found)
    engine.build("FROM localhost/base AS a\nRUN touch /a\nFROM a AS b\nRUN exit 1", None,
                 "localhost/target", target="a")  # fmt: skip
    assert "a" in files(engine, "localhost/target")


def test_mounts_of_run(engine: Engine, context: Path) -> None:
    said: list[bytes] = []
    recipe = """FROM localhost/base AS other
RUN echo from the stage > /note
FROM localhost/base
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/note,target=/n \\
    --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/cache \\
    cat /ctx/a.txt /n; touch /scratch/x; echo line >> /cache/log; wc -l < /cache/log; \\
    touch /ctx/no 2>/dev/null || echo read-only
"""
    for _ in range(2):
        engine.build(recipe, str(context), "localhost/mounts", cache=False,
                     report=lambda event: said.append(event.data))  # fmt: skip
    output = b"".join(said).decode().split("\n")
    assert output == ["A", "from the stage", "1", "read-only", "A", "from the stage", "2",
                      "read-only", ""]  # fmt: skip
    image = engine.store.find("localhost/mounts")
    assert image is not None
    assert Tree.of(engine.store, image.layers).changes[-1] == []


def test_caches_of_run_begin_with_files_and_are_pruned(engine: Engine, context: Path) -> None:
    said: list[bytes] = []
    recipe = """FROM localhost/base
RUN --mount=type=cache,id=c,target=/c,from=localhost/base,source=/etc,uid=3,gid=4,sharing=locked \\
    stat -c '%u %g' /c; ls /c; rm -r /c/*; touch /c/left
RUN --mount=type=cache,target=/d,mode=1777 stat -c '%a' /d
"""

    def build() -> str:
        said.clear()
        engine.build(recipe, str(context), "localhost/caches", cache=False,
                     report=lambda event: said.append(event.data))  # fmt: skip
        return b"".join(said).decode()

    first = build()
    assert first.startswith("3 4\n")
    assert "passwd" in first
    assert first.endswith("1777\n")
    assert build() == "3 4\nleft\n1777\n"
    above = caches(engine)
    with open(next(Path(above).glob("*.lock"))) as lock:
        kept = os.path.basename(lock.name).removesuffix(".lock")
        fcntl.flock(lock, fcntl.LOCK_SH)
        VERBS["prune"](engine, [])
        left = {name for name in os.listdir(above) if not name.endswith(".lock")}
        assert left == {kept} & left, "what a build uses stays"
    VERBS["prune"](engine, [])
    assert all(name.endswith(".lock") for name in os.listdir(above))
    assert "passwd" in build()


def test_secrets_are_lent_and_leave_no_trace(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("tiger")
    (tmp_path / "Containerfile").write_text(
        """FROM localhost/base
ARG WHERE=/run/deep/er/token
RUN --mount=type=secret,id=token --mount=type=secret,id=token,target=$WHERE,uid=5,gid=6,mode=0440 \\
    --mount=type=secret,id=var,env=GIVEN --mount=type=secret,id=absent \\
    stat -c '%a %u %g' /run/secrets/token $WHERE; cat $WHERE; echo " $GIVEN"; ls /run/secrets
"""
    )
    monkeypatch.setenv("SECRET_VARIABLE", "lion")
    said: list[bytes] = []

    def build(**more: Any) -> Any:
        return engine.build(
            (tmp_path / "Containerfile").read_text(), None, "localhost/lent",
            report=lambda event: said.append(event.data), **more,
        )  # fmt: skip

    from ctrt.engine import entrusted

    words = [f"id=token,src={tmp_path}/token", "id=var,env=SECRET_VARIABLE"]
    image = build(secrets=entrusted.secrets(words))
    assert b"".join(said).decode() == "400 0 0\n440 5 6\ntiger lion\ntoken\n"
    tree = Tree.of(engine.store, image.layers)
    assert not [path for path in tree.nodes if "secrets" in path or "deep" in path]
    for layer in image.layers[1:]:
        with gzip.open(engine.store.blob_path(layer.digest)) as file:
            assert not {b"tiger", b"lion"} & set(file.read().split(b"\0"))
    assert b"tiger" not in Path(engine.store.blob_path(image.id)).read_bytes()
    said.clear()
    build(secrets={"token": b"another", "var": b""})
    assert said == [b""] * 4, "another secret is no reason to do it again"
    for word, sentence in [
        ("src=x", "--secret 'src=x' has no id=NAME"),
        ("id=x,src=/none", "--secret x: /none cannot be read: No such file or directory"),
        ("id=x,env=NONE_SUCH", "--secret x: the variable NONE_SUCH is not set"),
    ]:
        with pytest.raises(CtrtError) as caught:
            entrusted.secrets([word])
        assert str(caught.value) == sentence


def test_an_agent_is_lent(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("ssh-agent", "ssh-add", "ssh-keygen")
    from ctrt.engine import entrusted
    from ctrt.images.hostimage import from_host

    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(CtrtError, match="--ssh default: no agent is known"):
        entrusted.agents(["default"])
    with tempfile.TemporaryDirectory() as place:
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", f"{place}/s"], stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                if os.path.exists(f"{place}/s"):
                    break
                time.sleep(0.02)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the key", "-f", f"{place}/k")
            run("ssh-add", "-q", f"{place}/k", env={**os.environ, "SSH_AUTH_SOCK": f"{place}/s"})
            from_host(engine.store, "localhost/ssh", ["sh", "ssh-add", "cat", "ls"])
            said: list[bytes] = []
            engine.build(
                "FROM localhost/ssh\nRUN --mount=type=ssh,required=true ssh-add -l && ssh-add -L\n"
                "RUN echo ${SSH_AUTH_SOCK:-none}",
                None, "localhost/asked", agents=entrusted.agents([f"default={place}/s"]),
                report=lambda event: said.append(event.data),
            )  # fmt: skip
        finally:
            agent.terminate()
            agent.wait()
    text = b"".join(said).decode()
    assert "the key (ED25519)" in text
    assert text.endswith("none\n")


def test_what_has_not_changed_is_not_done_again(engine: Engine, context: Path) -> None:
    recipe = "FROM localhost/base\nCOPY a.txt /\nRUN cat a.txt && id > /id\nENV X=1\n"

    def cached() -> tuple[int, str]:
        events: list[Event] = []
        image = engine.build(recipe, str(context), "localhost/cached", report=events.append)
        return sum(event.kind == "cached" for event in events), image.digest

    assert cached()[0] == 0
    count, digest = cached()
    assert count == 2
    assert cached() == (2, digest)
    os.utime(context / "a.txt", (1, 1))
    assert cached() == (2, digest), "a new time is no change"
    (context / "a.txt").write_text("changed")
    assert cached()[0] == 0
    engine.store.prune()
    assert cached()[0] == 0


def test_the_same_input_gives_the_same_digest_anywhere(
    engine: Engine, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "FROM localhost/base\nCOPY src /src\nRUN echo x > /x && mkdir /d\nWORKDIR /new/dir\n"
    first = engine.build(recipe, str(context), "localhost/same", time_ns=EPOCH, cache=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH // 10**9))
    os.utime(context / "src/one.c", (5, 5))
    again = engine.build(recipe, str(context), "localhost/same", cache=False)
    assert first.digest == again.digest
    assert again.config["created"] == "2020-09-13T12:26:40Z"


def podman_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> list[str]:
    """podman with a store of its own, and settings with which it can run here."""
    place = tempfile.mkdtemp(prefix="ctrt-p-")  # podman wants a short path
    podman = ["podman", "--root", f"{place}/p", "--runroot", f"{place}/r",
              "--storage-driver=vfs"]  # fmt: skip
    # As docs/benchmarks.md has it: no limit above the hard ones, a runtime that knows cgroup v1.
    conf = tmp_path / "containers.conf"
    conf.write_text(
        "[containers]\ndefault_ulimits = ['nofile=1024:1024', 'nproc=4096:4096']\n"
        "[engine]\ncgroup_manager = 'cgroupfs'\nevents_logger = 'file'\n"
    )
    monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    request.addfinalizer(lambda: shutil.rmtree(place, ignore_errors=True))
    return podman


def test_podman_runs_what_was_built_and_the_digest_comes_back(
    engine: Engine,
    context: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    needs("skopeo", "podman", "runc")
    image = engine.build(
        "FROM localhost/base\nCOPY a.txt /\nRUN echo more >> /a.txt\n"
        'ENTRYPOINT ["/bin/cat"]\nCMD ["/a.txt"]\nLABEL x=y\n',
        str(context),
        "localhost/for-podman",
    )
    assert engine.run("localhost/for-podman").text() == "A\nmore\n"
    layout = f"oci:{engine.store.root}:localhost/for-podman:latest"
    podman = podman_at(tmp_path, monkeypatch, request)
    identity = run(*podman, "pull", "-q", layout).strip()
    assert identity == image.id[7:]
    seen = json.loads(run(*podman, "image", "inspect", identity))[0]
    assert seen["Digest"] == image.digest
    assert seen["Config"]["Labels"] == {"x": "y"}
    said = run(*podman, "--runtime=runc", "run", "--rm", "--network=none", identity)
    assert said == "A\nmore\n"
    run("skopeo", "copy", "-q", layout, f"dir:{tmp_path}/d")
    assert json.loads((tmp_path / "d/manifest.json").read_text())["config"]["digest"] == image.id


def test_what_is_built_and_pushed_is_pulled_and_run_by_podman(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    needs("docker-registry", "podman", "runc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
    )
    child = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    request.addfinalizer(lambda: (child.terminate(), child.wait()))
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    image = engine.build(
        'FROM localhost/base\nRUN echo pushed > /note\nCMD ["cat", "/note"]\n', None,
        "localhost/to-push",
    )  # fmt: skip
    name = f"127.0.0.1:{port}/group/built:1"
    assert image.digest in str(VERBS["push"](engine, ["localhost/to-push", name]))
    podman = podman_at(tmp_path, monkeypatch, request)
    identity = run(*podman, "pull", "-q", "--tls-verify=false", name).strip()
    assert identity == image.id[7:]
    assert run(*podman, "image", "inspect", "-f", "{{.Digest}}", identity).strip() == image.digest
    said = run(*podman, "--runtime=runc", "run", "--rm", "--network=none", identity)
    assert said == "pushed\n"


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        # the recipe, and the sentence
        ("", "Containerfile has no FROM, so there is nothing to build upon"),
        ("RUN x", "line 1: RUN before FROM; only ARG may come first"),
        ("FROM a\nCPOY b c", "line 2: there is no instruction CPOY; did you mean COPY?"),
        ("FROM localhost/base\n\n# x\nCOPY a",
         "line 4: expected COPY SOURCE... DESTINATION"),
        ("FROM localhost/base\nCOPY --chmod=rw a.txt /",
         'line 2: --chmod="rw" is no octal mode'),
        ("FROM localhost/base\nCOPY --chown=who a.txt /",
         "line 2: the image has no 'who' in its /etc/passwd"),
        ("FROM localhost/base\nCOPY ../outside /",
         "line 2: the build context has no ../outside"),
        ("FROM localhost/base\nRUN exit 7",
         "line 2: RUN exit 7 ended with status 7"),
        ("FROM localhost/base\nRUN <<EOF\nx", "line 2: the here-document EOF has no end"),
        ("FROM localhost/base\nENV X", "line 2: ENV X has no value"),
        ('FROM localhost/base\nENV X="a', 'line 2: the quotation mark " has no partner'),
        ("FROM localhost/base\nENV X=${Y:?wanted}", "line 2: Y is not set: wanted"),
        ("FROM localhost/base\nEXPOSE web",
         'line 2: EXPOSE: "web" is not PORT[/tcp|/udp]'),
        ("FROM localhost/base\nRUN --mount=type=secret,target=/s,required=true x",
         "line 2: --mount: no secret s was given; see: ctrt build --help"),
        ("FROM localhost/base\nRUN --mount=type=ramdisk,target=/s x",
         "line 2: --mount: there is no type ramdisk; there are bind, cache, tmpfs, secret, ssh"),
        ("FROM localhost/base\nRUN --mount=type=tmpfs,target=/s,from=x y",
         "line 2: --mount: type=tmpfs has no option from"),
        ("FROM localhost/base\nCOPY --frm=x a b",
         ("line 2: COPY has no flag --frm; it has --chown, --chmod, --from, --link, --parents,"
          " --exclude")),
        ("FROM localhost/base\nONBUILD FROM x", "line 2: ONBUILD FROM is not allowed"),
        ("FROM localhost/base\nSHELL sh -c",
         'line 2: SHELL must be like ["/bin/sh", "-c"]'),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_with_its_line(
    engine: Engine, context: Path, recipe: str, sentence: str
) -> None:
    before = {image.reference for image in engine.store.images()}
    with pytest.raises(CtrtError) as caught:
        engine.build(recipe, str(context), "localhost/mistake")
    start = "" if sentence.startswith("Containerfile") else "Containerfile, "
    assert str(caught.value) == start + sentence
    assert {image.reference for image in engine.store.images()} == before
    assert os.listdir(engine.store.path("tmp")) == []


def test_an_argument_that_nobody_declares_is_named(engine: Engine) -> None:
    with pytest.raises(CtrtError, match="--build-arg TYPO: Containerfile declares no such ARG"):
        engine.build("FROM localhost/base\nARG X\n", None, "localhost/x", arguments={"TYPO": "1"})


def test_links_of_the_context_do_not_lead_out_of_it(engine: Engine, context: Path) -> None:
    (context / "out").symlink_to("/etc")
    (context / "file").symlink_to("/etc/hostname")
    with pytest.raises(CtrtError, match="the build context has no out/hostname"):
        engine.build("FROM scratch\nCOPY out/hostname /x", str(context), "localhost/out")
    with pytest.raises(CtrtError) as caught:
        engine.build("FROM scratch\nCOPY file /x", str(context), "localhost/out")
    assert str(caught.value) == (
        "Containerfile, line 2: file is a link, and the build context has no etc/hostname"
    )


def test_a_link_that_is_named_stands_for_what_it_leads_to(engine: Engine, context: Path) -> None:
    """As docker and buildah have it; links inside of a directory stay links."""
    (context / "ln").symlink_to("a.txt")
    (context / "far").symlink_to("/src/deep")
    (context / "src/up").symlink_to("../a.txt")
    engine.build(
        """FROM scratch AS one
COPY ln /file
COPY ln far/two.c /in/
COPY far /there/
COPY src/u* /globbed/
COPY src /all
""",
        str(context),
        "localhost/links",
    )
    found = files(engine, "localhost/links")
    kinds = {path: node.item.kind for path, node in found.items()}
    assert {path for path, kind in kinds.items() if kind == "0"} >= {
        "file", "in/ln", "in/two.c", "there/two.c", "globbed/up",
    }  # fmt: skip
    assert {path for path, kind in kinds.items() if kind == "2"} == {"all/link", "all/up"}
    assert text(engine, "localhost/links", "in/ln") == "A\n"
    engine.build("FROM scratch\nCOPY --from=localhost/links /all/link /by/", None, "localhost/by")
    assert files(engine, "localhost/by")["by/link"].item.kind == "0"
    (context / "loop").symlink_to("loop")
    with pytest.raises(CtrtError, match="line 2: loop is a link, and the build context has no"):
        engine.build("FROM scratch\nCOPY loop /x", str(context), "localhost/no")


def test_a_workdir_that_is_made_belongs_to_who_works_there(engine: Engine) -> None:
    engine.build(
        """FROM localhost/base
WORKDIR /before
COPY <<EOF /etc/passwd
who:x:7:8::/:/bin/sh
EOF
USER who
WORKDIR /home/x
USER 9
WORKDIR /nine
USER 9:10
WORKDIR /ten
""",
        None,
        "localhost/workdir",
    )
    found = files(engine, "localhost/workdir")
    owners = {
        path: (found[path].item.uid, found[path].item.gid)
        for path in ("before", "home", "home/x", "nine", "ten")
    }
    assert owners == {
        "before": (0, 0), "home": (7, 8), "home/x": (7, 8), "nine": (9, 0), "ten": (9, 10),
    }  # fmt: skip
