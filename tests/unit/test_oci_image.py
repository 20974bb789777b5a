"""The OCI documents: what is read from them, and where an error is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ctrt.errors import CtrtError
from ctrt.oci import media
from ctrt.oci.digest import chain_ids, sha256
from ctrt.oci.image import kind, read_config, read_index, read_manifest

D = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": media.OCI_LAYER_GZIP, "digest": D, "size": 3}
MANIFEST = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
CONFIG = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [D]}}


def data(value: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**value, **more}).encode()


def test_a_manifest_with_unknown_fields_is_read() -> None:
    manifest = read_manifest(data(MANIFEST, new=1, artifactType="x"), "x")
    assert manifest.layers[0].digest == D
    assert manifest.layers[0].size == 3


def test_a_config_as_docker_writes_it_is_read() -> None:
    process = {"Cmd": None, "Env": ["A=b"], "Labels": None, "ArgsEscaped": True, "Image": ""}
    config = read_config(data(CONFIG, config=process, docker_version="1"), "x")
    assert config.config is not None
    assert config.config.env == ["A=b"]
    assert config.config.cmd is None
    assert config.rootfs.diff_ids == [D]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"", "the manifest of x is not JSON: input data was truncated"),
        (b"{", "the manifest of x is not JSON: input data was truncated"),
        (b"[]", "the manifest of x is broken at $: expected object, got array"),
        (
            data(MANIFEST, schemaVersion=1),
            "the manifest of x is broken at $.schemaVersion: it must be 2",
        ),
        (
            data(MANIFEST, layers=[{**DESCRIPTOR, "size": -1}]),
            "the manifest of x is broken at $.layers[0].size: expected int >= 0",
        ),
        (
            data(MANIFEST, layers=[{**DESCRIPTOR, "size": "3"}]),
            "the manifest of x is broken at $.layers[0].size: expected int, got str",
        ),
        (
            data(MANIFEST, layers=[DESCRIPTOR, {**DESCRIPTOR, "digest": "sha256:../../x"}]),
            "the manifest of x is broken at $.layers[1].digest: expected a digest",
        ),
        (
            data({"schemaVersion": 2, "layers": []}),
            "the manifest of x is broken at $: object missing required field config",
        ),
        (b" " * (media.MANIFEST_LIMIT + 1), "the manifest of x has more than 4 MiB"),
    ],
)
def test_a_broken_manifest_says_where(document: bytes, sentence: str) -> None:
    with pytest.raises(CtrtError) as caught:
        read_manifest(document, "x")
    assert str(caught.value) == sentence


def test_deep_nesting_is_a_sentence() -> None:
    with pytest.raises(CtrtError):
        read_manifest(b'{"schemaVersion":2,"a":' + b"[" * 1_000_000, "x")


def test_a_config_that_is_no_image_says_where() -> None:
    with pytest.raises(CtrtError) as caught:
        read_config(data(CONFIG, rootfs={"type": "other", "diff_ids": []}), "x")
    assert (
        str(caught.value)
        == 'the configuration of x is broken at $.rootfs.type: it must be "layers"'
    )
    with pytest.raises(CtrtError) as caught:
        read_config(data(CONFIG, config={"Env": "A=b"}), "x")
    assert (
        str(caught.value)
        == "the configuration of x is broken at $.config.Env: expected array | null, got str"
    )


@pytest.mark.parametrize(
    ("document", "header", "expected"),
    [
        (data(MANIFEST), media.OCI_MANIFEST, media.OCI_MANIFEST),
        (data(MANIFEST), "", media.OCI_MANIFEST),
        (data(MANIFEST), "text/plain", media.OCI_MANIFEST),
        (
            data(MANIFEST, mediaType=media.DOCKER_MANIFEST),
            "application/json",
            media.DOCKER_MANIFEST,
        ),
        (data({"schemaVersion": 2, "manifests": []}), "", media.OCI_INDEX),
    ],
)
def test_the_kind_of_a_document(document: bytes, header: str, expected: str) -> None:
    assert kind(document, header, "x") == expected


@pytest.mark.parametrize(
    ("document", "header", "sentence"),
    [
        (
            data(MANIFEST, manifests=[]),
            media.OCI_MANIFEST,
            "the manifest of x is broken at $: it is an image and an index at once",
        ),
        (
            data(MANIFEST, mediaType=media.OCI_INDEX),
            media.OCI_MANIFEST,
            f"the manifest of x is broken at $.mediaType: it was sent as {media.OCI_MANIFEST}",
        ),
        (
            data(MANIFEST, mediaType="application/x"),
            "",
            "x is no container image: its media type is application/x",
        ),
        (
            data({"schemaVersion": 1}),
            media.DOCKER_SCHEMA1[1],
            (
                "x is in Docker's old format (manifest schema 1), which is not read any more;"
                " push it again with a current tool"
            ),
        ),
    ],
)
def test_a_document_of_two_kinds_is_refused(document: bytes, header: str, sentence: str) -> None:
    with pytest.raises(CtrtError) as caught:
        kind(document, header, "x")
    assert str(caught.value) == sentence


def test_an_index_has_platforms() -> None:
    entry = {**DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
    index = read_index(data({"schemaVersion": 2, "manifests": [entry, DESCRIPTOR]}), "x")
    assert str(index.manifests[0].platform) == "linux/arm/v7"
    assert index.manifests[1].platform is None


def test_chain_ids_are_the_specs() -> None:
    a, b, c = (sha256(text) for text in (b"a", b"b", b"c"))
    ab = sha256(f"{a} {b}".encode())
    assert chain_ids([a, b, c]) == [a, ab, sha256(f"{ab} {c}".encode())]
    assert chain_ids([]) == []
