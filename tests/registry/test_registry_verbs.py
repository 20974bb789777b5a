"""The verbs about registries, as the command line and `%ctrt` call them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run
from images_tools import image, member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images.store import Image

Do = Callable[..., str]


@pytest.fixture(scope="module")
def target(start_registry: Callable[..., str]) -> str:
    return start_registry()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(str(tmp_path / "root"))


@pytest.fixture
def do(engine: Engine) -> Do:
    return lambda *words: str(VERBS[words[0]](engine, words[1:]))


@pytest.fixture
def made(engine: Engine) -> Image:
    return image(engine.store, tar(member("f", os.urandom(9000))), name="localhost/made:1")


def test_push_names_the_digest_that_arrives(do: Do, made: Image, target: str) -> None:
    assert do("push", "made:1", f"{target}/v/made:1") == made.digest
    said = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{target}/v/made:1"))
    assert said["Digest"] == made.digest
    assert do("pull", f"docker://{target}/v/made:1") == f"{target}/v/made:1"
    assert do("push", f"{target}/v/made:1") == made.digest, "where it came from"
    with pytest.raises(CtrtError) as caught:
        do("push", "made:1")
    assert str(caught.value) == (
        "localhost/made:1 names no registry; say where to push it, as in: ctrt push made:1"
        " REGISTRY/made:1"
    )
    with pytest.raises(CtrtError, match="there is no image none in the store"):
        do("push", "none")


def test_push_and_pull_by_transport(do: Do, made: Image, tmp_path: Path) -> None:
    place = f"oci-archive:{tmp_path}/made.tar:localhost/again:7"
    assert do("push", "made:1", place) == made.digest
    assert do("pull", f"oci-archive:{tmp_path}/made.tar") == "localhost/again:7"
    with pytest.raises(CtrtError, match="there is already a file"):
        do("push", "made:1", place)


def test_copy_tags_catalog_and_referrers(
    do: Do, registry: str, target: str, tmp_path: Path
) -> None:
    source = f"docker://{registry}/group/tool:oci"
    digest = do("copy", source, f"docker://{target}/c/tool:1", "--src-tls-verify=false")
    assert do("copy", source, f"docker://{target}/c/tool:2") == digest
    assert do("copy", source, f"dir:{tmp_path}/out") == digest
    assert do("tags", f"{target}/c/tool").split() == ["TAG", "1", "2"]
    assert "c/tool" in do("catalog", target).split()
    assert do("referrers", f"{target}/c/tool:1").split() == ["DIGEST", "TYPE", "SIZE"]
    with pytest.raises(CtrtError) as caught:
        do("tags", f"{target}/c/nothing")
    assert str(caught.value) == (
        f"cannot list the tags of {target}/c/nothing: {target} answered HTTP 404 NAME_UNKNOWN:"
        " repository name not known to registry"
    )
    with pytest.raises(CtrtError, match=r"cannot copy .*/group/tool:none to dir:"):
        do("copy", f"docker://{registry}/group/tool:none", f"dir:{tmp_path}/none")


def test_pull_for_another_platform(do: Do, registry: str) -> None:
    with pytest.raises(CtrtError, match="it is for linux/amd64, not for linux/arm64"):
        do("pull", "--platform", "linux/arm64", f"{registry}/group/tool:oci")


def test_reference(do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registries.conf"
    path.write_text('[aliases]\nrhel7 = "registry.access.redhat.com/rhel7"\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    assert do("reference", "rhel7").splitlines()[-1] == "= registry.access.redhat.com/rhel7:latest"
    assert 'alias "rhel7" in registries.conf' in do("reference", "rhel7")
    assert str(path) in do("reference", "--ids", "--json", "rhel7")
    assert str(tmp_path) not in do("reference", "--json", "rhel7")
    assert json.loads(do("reference", "--json", "rhel7"))["view"] == "reference"
    do("reference", "rhel7", "--svg", f"{tmp_path}/r.svg")
    assert (tmp_path / "r.svg").read_text().startswith("<svg ")
    with pytest.raises(CtrtError, match="is not an image reference"):
        do("reference", "No Name")


def test_login_without_a_terminal_says_what_to_do(do: Do, target: str) -> None:
    with pytest.raises(CtrtError, match="give it by --password-stdin"):
        do("login", "-u", "alice", target)
    with pytest.raises(CtrtError, match="--password-stdin needs --username"):
        do("login", "--password-stdin", target)
    with pytest.raises(CtrtError, match=f"nobody is logged in to {target}; log in with"):
        do("login", "--get-login", target)
    with pytest.raises(CtrtError, match="logout: expected one REGISTRY, or --all"):
        do("logout")


def test_the_engine_pulls_what_is_missing(engine: Engine, registry: str) -> None:
    name = f"{registry}/group/tool:oci"
    with pytest.raises(CtrtError, match="there is no image"):
        engine.image(name, when="never")
    made = engine.image(name, plain_http=True)
    assert engine.image(name, when="never").digest == made.digest
