"""policy.json decides before a blob is fetched; the signatures are made with openssl."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from images_tools import digest, image, member, tar

from ctrt.errors import CtrtError
from ctrt.images import registries, transports
from ctrt.images.copy import copy, push
from ctrt.images.pull import pull
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store
from ctrt.images.transports import Options
from ctrt.oci import media

NO_CONFIG = registries.Config()
MARK = "dev.cosignproject.cosign/signature"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    for name in ("one", "two"):
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out",
            f"{place}/{name}.key")  # fmt: skip
        run("openssl", "ec", "-in", f"{place}/{name}.key", "-pubout", "-out", f"{place}/{name}.pub")
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", f"{place}/ed.key")
    run("openssl", "pkey", "-in", f"{place}/ed.key", "-pubout", "-out", f"{place}/ed.pub")
    return place


@pytest.fixture(scope="module")
def host(start_registry: Callable[..., str]) -> str:
    return start_registry()


def sign(key: Path, payload: bytes) -> str:
    if key.stem == "ed":
        file = key.parent / "payload"
        file.write_bytes(payload)
        words = ["openssl", "pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", str(file)]
    else:
        words = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    done = subprocess.run(words, input=payload, capture_output=True, check=True)
    return base64.b64encode(done.stdout).decode()


@pytest.fixture
def signed(host: str, keys: Path, tmp_path: Path) -> Callable[..., tuple[str, Image]]:
    """Push an image and what cosign would put beside it; return its name."""

    def make(
        repository: str,
        key: str = "one",
        *,
        identity: str | None = None,
        of: str | None = None,
        signatures: int = 1,
    ) -> tuple[str, Image]:
        store = Store(str(tmp_path / "source"))
        made = image(store, tar(member("f", repository.encode())), name=f"{host}/{repository}:1")
        to = transports.destination(f"{host}/{repository}:1", Options(), NO_CONFIG)
        push(store, made, to)
        client = Registry(host)
        layers = []
        for _ in range(signatures):
            payload = json.dumps({
                "critical": {
                    "identity": {"docker-reference": identity or f"{host}/{repository}:1"},
                    "image": {"docker-manifest-digest": of or made.digest},
                    "type": "cosign container image signature",
                },
                "optional": None,
            }).encode()  # fmt: skip
            client.put_blob(
                repository, digest(payload), len(payload), lambda at, p=payload: [p[at:]]
            )
            layers.append({
                "mediaType": SIMPLE, "digest": digest(payload), "size": len(payload),
                "annotations": {MARK: sign(keys / f"{key}.key", payload)},
            })  # fmt: skip
        config = b"{}"
        client.put_blob(repository, digest(config), 2, lambda at: [config[at:]])
        manifest = {
            "schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "layers": layers,
            "config": {"mediaType": media.OCI_CONFIG, "digest": digest(config), "size": 2},
        }  # fmt: skip
        tag = made.digest.replace(":", "-") + ".sig"
        client.put_manifest(repository, tag, media.OCI_MANIFEST, json.dumps(manifest).encode())
        client.close()
        return f"{host}/{repository}:1", made

    return make


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., str]:
    path = tmp_path / ".config/containers/policy.json"
    path.parent.mkdir(parents=True)

    def write(value: Any) -> str:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)

    return write


def by_key(path: object, **more: Any) -> dict[str, Any]:
    entry = {"type": "sigstoreSigned", "keyPath": str(path), **more}
    return {"default": [{"type": "reject"}], "transports": {"docker": {"": [entry]}}}


def refusal(store: Store, name: str) -> str:
    with pytest.raises(CtrtError) as caught:
        pull(store, name)
    assert store.images() == []
    assert not Path(store.root, "blobs/sha256").exists() or not list(
        Path(store.root, "blobs/sha256").iterdir()
    ), "nothing is fetched"
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"cannot pull {name}: ")


@pytest.mark.parametrize("key", ["one", "ed"])
def test_a_good_signature(
    store: Store, signed: Callable[..., Any], policy: Callable[..., str], keys: Path, key: str
) -> None:
    name, made = signed(f"good/{key}", key)
    policy(by_key(keys / f"{key}.pub"))
    assert pull(store, name).digest == made.digest


def test_key_data_and_several_signatures(
    store: Store, signed: Callable[..., Any], policy: Callable[..., str], keys: Path
) -> None:
    name, _ = signed("good/several", signatures=2)
    data = base64.b64encode((keys / "one.pub").read_bytes()).decode()
    requirement = {"type": "sigstoreSigned", "keyData": data}
    policy({"default": [requirement]})
    assert pull(store, name).layers


def test_the_reasons_to_refuse(
    store: Store, host: str, signed: Callable[..., Any], policy: Callable[..., str], keys: Path
) -> None:
    path = policy(by_key(keys / "one.pub"))
    why = f"{path} wants a signature for the transport docker"
    name, _ = signed("bad/key", "two")
    assert refusal(store, name) == (
        f"{why}, and none of its 1 will do: it is not made with the key that the policy names"
    )
    other = "sha256:" + "0" * 64
    name, _ = signed("bad/digest", of=other)
    assert f"it vouches for another manifest ({other[:19]})" in refusal(store, name)
    name, _ = signed("bad/name", identity="docker.io/library/debian:1")
    assert "it vouches for another name (docker.io/library/debian:1)" in refusal(store, name)
    to = transports.destination(f"{host}/bad/none:1", Options(), NO_CONFIG)
    copy(transports.source(f"docker://{name}", Options(), NO_CONFIG), to)
    assert refusal(store, f"{host}/bad/none:1") == f"{why}, and it has none"


@pytest.mark.parametrize(
    ("identity", "signed_as", "good"),
    [
        ({"type": "matchExact"}, "HOST/id/x:1", True),
        ({"type": "matchExact"}, "HOST/id/x", False),
        ({"type": "matchRepository"}, "HOST/id/x", True),
        ({"type": "matchRepository"}, "HOST/id/y", False),
        ({"type": "exactReference", "dockerReference": "q.io/a:2"}, "q.io/a:2", True),
        ({"type": "exactReference", "dockerReference": "q.io/a:2"}, "q.io/a:3", False),
        ({"type": "exactRepository", "dockerRepository": "q.io/a"}, "q.io/a:3", True),
        ({"type": "remapIdentity", "prefix": "HOST/id", "signedPrefix": "q.io"}, "q.io/x:1", True),
        ({"type": "remapIdentity", "prefix": "HOST/i", "signedPrefix": "q.io"}, "q.io/x:1", False),
    ],
)
def test_whom_a_signature_is_for(
    store: Store, host: str, signed: Callable[..., Any], policy: Callable[..., str], keys: Path,
    identity: dict[str, str], signed_as: str, good: bool,
) -> None:  # fmt: skip
    name, _ = signed("id/x", identity=signed_as.replace("HOST", host))
    wanted = {key: value.replace("HOST", host) for key, value in identity.items()}
    policy(by_key(keys / "one.pub", signedIdentity=wanted))
    if good:
        assert pull(store, name).layers
    else:
        assert "it vouches for another name" in refusal(store, name)


def test_a_name_by_digest_needs_the_repository_only(
    store: Store, host: str, signed: Callable[..., Any], policy: Callable[..., str], keys: Path
) -> None:
    _, made = signed("good/digest", identity=f"{host}/good/digest")
    policy(by_key(keys / "one.pub"))
    assert pull(store, f"{host}/good/digest@{made.digest}").layers


def test_the_narrowest_scope_decides(
    store: Store, registry: str, policy: Callable[..., str]
) -> None:
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    name = f"{registry}/group/tool:oci"
    path = policy({"default": reject})
    assert refusal(store, name) == f"{path} refuses it: the default has the type reject"
    for scopes, good in (
        ({registry: accept}, True),
        ({registry: accept, f"{registry}/group": reject}, False),
        ({f"{registry}/group": reject, f"{registry}/group/tool": accept}, True),
        ({f"{registry}/group/tool": accept, name: reject}, False),
        ({f"{registry}/grou": reject, "": accept}, True),
        ({"*.0.0.1:1": reject, "": reject}, False),
    ):
        policy({"default": reject, "transports": {"docker": scopes}})
        if good:
            pull(Store(store.root + str(len(scopes)) + "good"), name)
        else:
            assert "refuses it" in refusal(store, name)


def test_other_transports_have_scopes_of_their_own(
    store: Store, layout: str, policy: Callable[..., str]
) -> None:
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    policy({"default": accept, "transports": {"oci": {layout: reject}}})
    with pytest.raises(CtrtError, match=f"refuses it: the scope {layout} has the type reject"):
        pull(store, f"oci:{layout}:latest")
    policy({"default": reject, "transports": {"oci": {f"{layout}:latest": accept}}})
    assert pull(store, f"oci:{layout}:latest").layers


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "PATH is not JSON: "),
        ({}, "PATH is broken at $.default: it must be a list of requirements, not empty"),
        (
            {"default": [{"type": "trust"}]},
            "PATH is broken at $.default[0].type: it is one of insecureAcceptAnything, reject,",
        ),
        (
            {"default": [{"type": "reject", "why": 1}]},
            "PATH is broken at $.default[0].why: reject has no such field",
        ),
        (
            {"default": [{"type": "sigstoreSigned"}]},
            "PATH is broken at $.default[0]: sigstoreSigned needs keyPath, keyPaths or keyData",
        ),
        (
            {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]},
            "the key /k that PATH names cannot be read: No such file or directory",
        ),
        (
            {"default": [{"type": "signedBy", "keyType": "GPGKeys"}]},
            "PATH is broken at $.default[0]: signedBy needs keyPath, keyPaths or keyData",
        ),
        (
            {"default": [{"type": "signedBy", "keyType": "X509", "keyPath": "/k"}]},
            "PATH wants keys of the type X509 for the default, not GPGKeys",
        ),
        (
            {"default": [{"type": "sigstoreSigned", "fulcio": {}}]},
            "PATH wants fulcio for the default, which cannot be checked here; a key (keyPath) can",
        ),
        (
            {"default": [{"type": "sigstoreSigned", "keyPath": "/nowhere/key"}]},
            "the key /nowhere/key that PATH names cannot be read: No such file or directory",
        ),
        (
            {"default": [{"type": "sigstoreSigned", "keyData": "bm8="}]},
            "the key in keyData of PATH is no public key in PEM format for ECDSA or Ed25519",
        ),
    ],
)
def test_a_policy_that_cannot_be_met(
    store: Store, registry: str, policy: Callable[..., str], value: Any, sentence: str
) -> None:
    path = policy(value)
    assert refusal(store, f"{registry}/group/tool:oci").startswith(sentence.replace("PATH", path))


def test_without_the_library_it_is_said_how_to_get_it(
    store: Store, registry: str, policy: Callable[..., str], keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    policy(by_key(keys / "one.pub"))
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "install: pip install 'ctrt[signatures]'" in refusal(store, f"{registry}/group/tool:oci")
