"""The verbs about registries, as the command line and `%ctrt` call them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run
from images_tools import image, member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import compose
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


def for_machine(engine: Engine, architecture: str, variant: str = "") -> Image:
    """An image in the store for another machine."""
    made = image(engine.store, tar(member("f", os.urandom(9000))), name="localhost/tmp")
    config = {**made.config, "architecture": architecture, "variant": variant}
    return compose.add_image(engine.store, f"localhost/app-{architecture}", config,
                             compose.blobs(made))  # fmt: skip


def test_an_index_joins_images_of_the_store_and_of_registries(
    engine: Engine, do: Do, target: str, tmp_path: Path
) -> None:
    amd, arm = for_machine(engine, "amd64"), for_machine(engine, "arm", "v7")
    riscv = for_machine(engine, "riscv64")
    do("push", "app-riscv64", f"{target}/i/riscv:1")
    do("rmi", "app-riscv64")
    digest = do("index", f"{target}/i/app:1", "app-amd64", "app-arm",
                f"docker://{target}/i/riscv:1", "--tls-verify=false")  # fmt: skip
    said = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}/i/app:1")
    assert f"sha256:{hashlib.sha256(said.encode()).hexdigest()}" == digest
    listed = {entry["digest"]: entry["platform"] for entry in json.loads(said)["manifests"]}
    assert listed == {
        amd.digest: {"architecture": "amd64", "os": "linux"},
        arm.digest: {"architecture": "arm", "os": "linux", "variant": "v7"},
        riscv.digest: {"architecture": "riscv64", "os": "linux"},
    }
    # Another tool takes all of it, and each machine its own.
    run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"docker://{target}/i/app:1",
        f"oci:{tmp_path}/all")  # fmt: skip
    for name, image_of_it in (("amd64", amd), ("arm", arm), ("riscv64", riscv)):
        shown = run("skopeo", "--override-arch", name, "inspect", "--raw", "--config",
                    "--tls-verify=false", f"docker://{target}/i/app:1")  # fmt: skip
        assert f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}" == image_of_it.id
    assert do("pull", "-q", "--platform", "linux/riscv64", f"{target}/i/app:1") == riscv.id[7:]
    # An index may be one of the parts, and the place a directory.
    do("index", f"oci:{tmp_path}/again:1", f"docker://{target}/i/app:1")
    assert do("inspect", "--raw", f"oci:{tmp_path}/again:1") == said


def test_an_index_that_cannot_be(engine: Engine, do: Do, target: str, tmp_path: Path) -> None:
    for_machine(engine, "amd64")
    for words, sentence in (
        (["app-amd64", "app-amd64"], "app-amd64:latest are both for linux/amd64"),
        (["app-amd64", "none"], "there is no image none in the store"),
        (["app-amd64", f"docker://{target}/i/none"], "has no"),
        ([], "index: expected DESTINATION IMAGE"),
    ):  # fmt: skip
        with pytest.raises(CtrtError, match=re.escape(sentence)):
            do("index", f"oci:{tmp_path}/none:1", *words)
    with pytest.raises(CtrtError, match="holds images for one platform"):
        do("index", f"docker-archive:{tmp_path}/a.tar", "app-amd64")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "reject"}]}')
    do("push", "app-amd64", f"{target}/i/refused:1")
    with pytest.raises(CtrtError, match="refuses it"):
        do("index", f"oci:{tmp_path}/none:1", f"docker://{target}/i/refused:1",
           "--signature-policy", str(policy))  # fmt: skip
    assert not (tmp_path / "a.tar").exists()


def test_inspect_shows_what_is_elsewhere_without_fetching_its_layers(
    do: Do, engine: Engine, registry: str, tmp_path: Path
) -> None:
    name = f"docker://{registry}/group/tool:oci"
    (found,) = json.loads(do("inspect", name))
    other = json.loads(run("skopeo", "inspect", "--tls-verify=false", name))
    assert found["Digest"] == other["Digest"]
    assert [layer["Digest"] for layer in found["Layers"]] == other["Layers"]
    assert found["Config"]["Env"] == other["Env"]
    assert not os.path.exists(engine.store.path("blobs")), "nothing is stored"
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", name)
    assert do("inspect", "--raw", name) == raw
    do("pull", name)
    (here,) = json.loads(do("inspect", f"{registry}/group/tool:oci"))
    assert here == found
    with pytest.raises(CtrtError, match=r"cannot inspect .*group/tool:none: the registry has no"):
        do("inspect", f"docker://{registry}/group/tool:none")
    with pytest.raises(CtrtError, match="there is no container and no image none here"):
        do("inspect", "none")


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
