"""The same Containerfile by buildah and by ctrt: the same configuration and the same tree."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import listing, merged, needs, run

from ctrt.engine import Engine

EPOCH = 1_600_000_000

RECIPES = {
    "copies": """FROM localhost/base
WORKDIR /work/deep
COPY a.txt .
COPY a.txt sub/new-name
COPY src /src
COPY src/ /also/
COPY *.txt /texts/
COPY --chown=7:8 --chmod=640 b.txt /owned
COPY --chown=nobody src /whose
ADD files.tar.gz /unpacked
ADD --chown=9:9 a.txt /added/
COPY ["a.txt", "with blank"]
""",
    "configuration": """# syntax=docker/dockerfile:1
ARG WHICH=base
ARG UNUSED
FROM localhost/${WHICH} AS one
MAINTAINER somebody <at@home>
ENV A=1 B="two words" C='$A' D=$A-${B}
ENV OLD style with blanks
LABEL l.one=1 "l two"="x y"
LABEL l.one=changed
EXPOSE 80 443/tcp 53/udp
VOLUME /data "/more"
USER 5:6
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=90s --timeout=2s --start-period=1m --retries=3 CMD test -f /x || exit 1
ONBUILD COPY . /later
ONBUILD RUN echo $A
WORKDIR /w
WORKDIR below
ENTRYPOINT exec top -b
CMD a "b c"
SHELL ["/bin/sh", "-ec"]
""",
    "commands": """FROM localhost/base
ENTRYPOINT ["/bin/ls"]
CMD ["-l", "/"]
ENTRYPOINT ["/bin/cat"]
HEALTHCHECK NONE
""",
    "arguments": """ARG TOP=top
FROM localhost/base
ARG TOP
ARG X=default
ARG Y=${X}-more
ENV RESULT="$TOP $X $Y ${Z:-none} ${X:+there}"
ARG X=again
LABEL second=$X escaped=\\$X quoted='$X'
COPY ${X:+a}.txt /$X
""",
    "run": """FROM localhost/base
RUN mkdir -p /made/by && echo "it is $0" > /made/file && chmod 4755 /made/file
RUN ["/bin/sh", "-c", "echo exec > '/made/exec form'"]
RUN echo one \\
  # between
  two > /made/lines; ln -s lines /made/link; ln /made/lines /made/hard
ARG SAID=heard
RUN echo $SAID > /made/argument
RUN rm -r /made/by && rm /etc/group
USER 12:34
RUN id -u > /tmp/id; id -g >> /tmp/id; pwd >> /tmp/id
""",
    "stages": """FROM localhost/base AS tools
RUN echo tool > /tool && mkdir /dir && echo x > /dir/x && chown -R 3:4 /dir
FROM scratch
COPY --from=tools /tool /bin/
COPY --from=0 /dir /copied
COPY --from=tools --chown=1:2 /dir/x /alone
CMD ["/bin/tool"]
""",
}


@pytest.fixture(scope="module")
def buildah(engine: Engine) -> Iterator[list[str]]:
    """buildah with a store of its own, which has localhost/base."""
    needs("buildah", "runc")
    place = tempfile.mkdtemp(prefix="ctrt-b-")
    words = [
        "buildah",
        "--root",
        f"{place}/p",
        "--runroot",
        f"{place}/r",
        "--storage-driver=overlay",
    ]
    identity = run(*words, "pull", "-q", f"oci:{engine.store.root}:localhost/base:latest").strip()
    run(*words, "tag", identity, "localhost/base")
    yield words
    run(*words, "umount", "--all", check=False)
    run("umount", f"{place}/p/overlay", check=False)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "src/deep").mkdir(parents=True)
    (place / "a.txt").write_text("A\n")
    (place / "b.txt").write_text("B\n")
    (place / "src/one").write_text("1")
    (place / "src/one").chmod(0o751)
    (place / "src/deep/two").write_text("2")
    (place / "src/skipped").write_text("x")
    (place / "src/link").symlink_to("one")
    (place / ".containerignore").write_text("**/skipped\n")
    run("tar", "-czf", str(place / "files.tar.gz"), "-C", str(place), "a.txt", "src/deep")
    for path in (place, *place.rglob("*")):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return place


@pytest.mark.parametrize("name", RECIPES)
def test_buildah_makes_the_same(
    engine: Engine, buildah: list[str], context: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "Containerfile"
    file.write_text(RECIPES[name])
    arguments = {"X": "given"} if name == "arguments" else {}
    ours = engine.build(
        RECIPES[name], str(context), f"localhost/{name}", arguments=arguments,
        time_ns=EPOCH * 10**9,
    )  # fmt: skip
    theirs = f"localhost/{name}"
    run(*buildah, "bud", "-q", "--isolation=chroot", "--format=docker", f"--timestamp={EPOCH}",
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        "-t", theirs, "-f", str(file), str(context))  # fmt: skip
    run(*buildah, "push", "-q", theirs, f"dir:{tmp_path}/dir")
    manifest = json.loads((tmp_path / "dir/manifest.json").read_text())
    config = json.loads((tmp_path / "dir" / manifest["config"]["digest"][7:]).read_text())
    assert said(ours.config["config"]) == said(config["config"])
    assert ours.config.get("author", "") == config.get("author", "")
    if "ONBUILD" in RECIPES[name]:
        return  # `buildah from` would carry it out
    container = run(*buildah, "from", "--pull-never", theirs).strip()
    other = files(listing(run(*buildah, "mount", container).strip()))
    mine = files(merged(engine_layers(engine, ours)))
    assert set(mine["entries"]) == set(other["entries"])
    for path, entry in other["entries"].items():
        assert mine["entries"][path] == entry, path
    assert mine["links"] == other["links"]


def engine_layers(engine: Engine, image: Any) -> list[str]:
    """The layers as they are on disk, owners as in the image."""
    from ctrt.images import layers

    return layers.unpack(engine.store, image, layers.Unpacker("root"))


def said(config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says; buildah writes empty fields, and its own label."""
    found = {key: value for key, value in config.items() if value and key != "Image"}
    labels = {key: value for key, value in (found.get("Labels") or {}).items()
              if not key.startswith("io.buildah")}  # fmt: skip
    found["Labels"] = labels
    for key in ("Domainname", "Hostname", "ArgsEscaped"):
        found.pop(key, None)
    return found


def files(tree: dict[str, Any]) -> dict[str, Any]:
    """Without what buildah leaves of its own mounts, and without the times of directories."""
    places = (".", "run", "proc", "sys", "dev", "etc/hosts", "etc/resolv.conf", "etc/hostname")
    for path, entry in list(tree["entries"].items()):
        if path in places or path.startswith("run/"):
            del tree["entries"][path]
        elif int(entry[0], 8) & 0o170000 == 0o040000:
            entry[3] = 0
    return tree
