"""Push and copy: what comes to a registry is what left, and nothing is sent twice."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from cutting import Cutting
from images_tools import digest, image, member, tar

from ctrt.errors import CtrtError
from ctrt.images import registries, transports
from ctrt.images.copy import copy, push
from ctrt.images.progress import Progress
from ctrt.images.pull import pull
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store
from ctrt.images.transports import Options, docker
from ctrt.oci import media

NO_CONFIG = registries.Config()


@pytest.fixture(scope="module")
def target(start_registry: Callable[..., str]) -> str:
    """An empty registry to push to."""
    return start_registry()


def to(name: str) -> transports.Destination:
    return transports.destination(name, Options(), NO_CONFIG)


def place(name: str) -> transports.Source:
    return transports.source(name, Options(), NO_CONFIG)


def inspect(name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")
    )
    return said


def some_image(store: Store, name: str = "localhost/made", seed: int = 0) -> Image:
    noise = random.Random(seed)
    layers = [tar(member(f"f{n}", noise.randbytes(200_000))) for n in range(3)]
    return image(store, *layers, name=name)


def test_what_is_pushed_is_pulled_by_others_with_the_same_digest(
    store: Store, target: str, tmp_path: Path
) -> None:
    made = some_image(store)
    seen: list[Progress] = []
    assert push(store, made, to(f"{target}/one:1"), progress=seen.append) == made.digest
    assert {p.status for p in seen} == {"uploading", "done"}
    said = inspect(f"{target}/one:1")
    assert said["Digest"] == made.digest
    assert said["Layers"] == [layer.digest for layer in made.layers]
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{target}/one:1",
        f"dir:{tmp_path}/out")  # fmt: skip
    other = Store(str(tmp_path / "other"))
    assert pull(other, f"{target}/one:1").digest == made.digest


def test_what_is_there_is_not_sent_again(store: Store, target: str) -> None:
    made = some_image(store, seed=1)
    push(store, made, to(f"{target}/two:1"))
    seen: list[Progress] = []
    push(store, made, to(f"{target}/two:2"), progress=seen.append)
    assert {p.status for p in seen} == {"exists"}
    assert inspect(f"{target}/two:2")["Digest"] == made.digest


def test_blobs_are_mounted_from_another_repository(store: Store, target: str) -> None:
    made = some_image(store, seed=2)
    push(store, made, to(f"{target}/from:1"))
    store.tag(f"{target}/from:1", made.digest)
    seen: list[Progress] = []
    push(store, made, to(f"{target}/mounted:1"), progress=seen.append)
    assert {p.status for p in seen} == {"done"}, "no byte of a blob was sent"
    assert inspect(f"{target}/mounted:1")["Digest"] == made.digest


def test_a_large_blob_goes_in_chunks(target: str) -> None:
    client = Registry(target)
    data = random.Random(3).randbytes(1_000_000)
    asked: list[int] = []

    def read(start: int) -> list[bytes]:
        asked.append(start)
        return [data[start : start + 7777], data[start + 7777 :]]

    said = client.put_blob("chunks", digest(data), len(data), read, chunk=300_000)
    assert said == "chunked"
    assert asked == [0, 300_000, 600_000, 900_000]
    assert b"".join(client.blob("chunks", digest(data), len(data))) == data
    assert client.has_blob("chunks", digest(data))
    assert not client.has_blob("chunks", digest(b"other"))
    client.close()


def test_a_broken_upload_goes_on(target: str) -> None:
    data = random.Random(4).randbytes(3_000_000)
    with Cutting(target) as proxy:
        client = Registry(proxy.host, plain_http=True, pause=lambda _: None)
        proxy.upload_cuts = [1_500_000]
        asked: list[int] = []

        def read(start: int) -> list[bytes]:
            asked.append(start)
            return [data[start:]]

        said = client.put_blob("cut", digest(data), len(data), read, chunk=1_000_000)
        assert said == "chunked"
        assert len(asked) > 3
        assert 0 in asked[:1]
        client.close()
    check = Registry(target)
    assert b"".join(check.blob("cut", digest(data), len(data))) == data
    check.close()


def test_an_upload_in_one_request_that_breaks_is_made_again(target: str) -> None:
    data = random.Random(5).randbytes(500_000)
    with Cutting(target) as proxy:
        client = Registry(proxy.host, plain_http=True, pause=lambda _: None)
        proxy.upload_cuts = [100_000, 200_000]
        said = client.put_blob("again", digest(data), len(data), lambda start: [data[start:]])
        assert said == "uploaded"
        client.close()


def test_a_source_that_lies_is_not_pushed(store: Store, target: str) -> None:
    made = some_image(store, seed=6)
    path = store.blob_path(made.layers[1].digest)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CtrtError) as caught:
        push(store, made, to(f"{target}/lies:1"))
    assert f"blob {made.layers[1].digest[7:19]} is broken: its digest should be" in str(
        caught.value
    )
    with pytest.raises(AssertionError, match=r"manifest unknown|not found|name unknown"):
        inspect(f"{target}/lies:1")


def test_copy_between_registries_keeps_the_digest(registry: str, target: str) -> None:
    for tag in ("oci", "docker"):
        said = inspect(f"{registry}/group/tool:{tag}")["Digest"]
        made = copy(
            place(f"docker://{registry}/group/tool:{tag}"), to(f"docker://{target}/c:{tag}")
        )
        assert made == said
        assert inspect(f"{target}/c:{tag}")["Digest"] == said


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, target: str) -> str:
    """An index of two platforms, put together from images of the target registry."""
    store = Store(str(tmp_path_factory.mktemp("indexed")))
    entries = []
    client = Registry(target)
    for number, (arch, variant) in enumerate((("amd64", ""), ("arm", "v7"))):
        made = some_image(store, f"localhost/{arch}", seed=10 + number)
        push(store, made, to(f"{target}/list:{arch}"))
        size = os.stat(store.blob_path(made.digest)).st_size
        platform = {
            "os": "linux",
            "architecture": arch,
            **({"variant": variant} if variant else {}),
        }
        entries.append(
            {
                "mediaType": made.media_type,
                "digest": made.digest,
                "size": size,
                "platform": platform,
            }
        )
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
    client.put_manifest("list", "all", media.OCI_INDEX, json.dumps(index, indent=2).encode())
    client.close()
    return f"{target}/list:all"


def test_copy_of_a_whole_index(indexed: str, registry: str, tmp_path: Path) -> None:
    said = copy(place(f"docker://{indexed}"), to(f"{registry}/list:all"), everything=True)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/list:all")
    assert digest(raw.encode()) == said
    run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false",
        f"docker://{registry}/list:all", f"dir:{tmp_path}/all")  # fmt: skip


def test_copy_of_one_platform(indexed: str, registry: str) -> None:
    copy(place(f"docker://{indexed}"), to(f"{registry}/one:arm"), platform="linux/arm/v7")
    raw = json.loads(
        run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/one:arm")
    )
    assert raw["mediaType"] == media.OCI_MANIFEST
    with pytest.raises(CtrtError, match="it has no image for linux/s390x, only for linux/amd64"):
        copy(place(f"docker://{indexed}"), to(f"{registry}/one:x"), platform="linux/s390x")


def test_podman_pulls_what_was_pushed(store: Store, target: str, podman: list[str]) -> None:
    made = some_image(store, seed=20)
    push(store, made, to(f"{target}/podman:1"))
    run(*podman, "pull", "-q", "--tls-verify=false", f"{target}/podman:1")
    said = json.loads(run(*podman, "image", "inspect", f"{target}/podman:1"))[0]
    assert (said["Digest"], said["Id"]) == (made.digest, made.id[7:])


def test_tags_and_catalog_come_page_by_page(
    store: Store, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = some_image(store, seed=21)
    for number in range(5):
        push(store, made, to(f"{target}/many:{number}"))
    monkeypatch.setattr("ctrt.images.registry.PAGE", 2)
    client = Registry(target)
    assert sorted(client.tags("many")) == ["0", "1", "2", "3", "4"]
    names = list(client.catalog())
    assert "many" in names
    assert names == sorted(set(names))
    client.close()


def test_referrers_by_the_tag_schema(store: Store, target: str) -> None:
    made = some_image(store, seed=22)
    push(store, made, to(f"{target}/refs:1"))
    client = Registry(target)
    assert client.referrers("refs", made.digest) == []
    entry = {
        "mediaType": media.OCI_MANIFEST, "digest": made.digest, "size": 1,
        "artifactType": "application/spdx+json",
    }  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
    size = os.stat(store.blob_path(made.digest)).st_size
    entry["size"] = size
    tag = made.digest.replace(":", "-")
    client.put_manifest("refs", tag, media.OCI_INDEX, json.dumps(index).encode())
    (found,) = client.referrers("refs", made.digest)
    assert (found.digest, found.artifact_type) == (made.digest, "application/spdx+json")
    assert client.referrers("refs", made.digest, "text/plain") == []
    client.close()


def test_pushing_below_another_digest_is_refused(store: Store, target: str) -> None:
    made = some_image(store, seed=23)
    with pytest.raises(CtrtError, match="so it cannot be pushed as"):
        push(store, made, to(f"{target}/x@sha256:{'0' * 64}"))


def test_no_registry_to_push_to(store: Store) -> None:
    made = some_image(store, seed=24)
    with pytest.raises(CtrtError, match=r"^cannot copy localhost/made:latest to localhost:1/x"):
        push(store, made, docker.open_destination("localhost:1/x", Options(), NO_CONFIG))
