"""The registry over a store: what other tools pull from it and push to it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from images_tools import digest, image, member, tar

from ctrt.errors import CtrtError
from ctrt.images.pull import pull
from ctrt.images.serve import Server
from ctrt.images.store import Store
from ctrt.oci import media

ONE = tar(member("bin", kind="dir"), member("bin/one", b"1" * 600_000))
TWO = tar(member("two", b"2"))


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    image(store, ONE, TWO, name="localhost/tour/shell")
    running = Server(store).start_in_thread()
    yield running
    running.stop()


def ask(
    server: Server, path: str, method: str = "GET", data: bytes | None = None, **headers: str
) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=data,
        method=method,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def code(body: bytes) -> str:
    value: str = json.loads(body)["errors"][0]["code"]
    return value


# -- by hand -----------------------------------------------------------------------------------


def test_it_is_a_registry(server: Server) -> None:
    status, headers, body = ask(server, "/v2/")
    assert (status, body) == (200, b"{}")
    assert headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert ask(server, "/v2/", "HEAD")[0] == 200
    assert ask(server, "/")[0] == 404
    assert ask(server, "/v2/x/blobs/sha256:12")[0] == 404


def test_manifests_by_tag_and_digest(server: Server, store: Store) -> None:
    made = store.find("localhost/tour/shell")
    assert made is not None
    for name in ("latest", made.digest):
        path = f"/v2/tour/shell/manifests/{name}"
        status, headers, body = ask(server, path)
        assert status == 200
        assert digest(body) == made.digest == headers["Docker-Content-Digest"]
        assert headers["Content-Type"] == media.OCI_MANIFEST
        status, headers, body = ask(server, path, "HEAD")
        assert (status, body) == (200, b"")
        assert headers["Docker-Content-Digest"] == made.digest
        assert int(headers["Content-Length"]) > 100
    assert code(ask(server, "/v2/tour/shell/manifests/1")[2]) == "MANIFEST_UNKNOWN"
    assert code(ask(server, "/v2/shell/manifests/latest")[2]) == "NAME_UNKNOWN"
    status, _, body = ask(server, "/v2/tour/shell/manifests/latest", Accept=media.DOCKER_MANIFEST)
    assert (status, code(body)) == (404, "MANIFEST_UNKNOWN")
    assert ask(server, "/v2/tour/shell/manifests/latest", "DELETE")[0] == 405


def test_blobs_and_ranges(server: Server, store: Store) -> None:
    made = store.find("localhost/tour/shell")
    assert made is not None
    layer = made.layers[0]
    whole = Path(store.blob_path(layer.digest)).read_bytes()
    path = f"/v2/tour/shell/blobs/{layer.digest}"
    status, headers, body = ask(server, path)
    assert (status, body) == (200, whole)
    status, headers, body = ask(server, path, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(whole)), b"")
    for asked, start, end in (
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, len(whole)),
        ("bytes=-7", len(whole) - 7, len(whole)),
        ("bytes=10-99999999", 10, len(whole)),
    ):
        status, headers, body = ask(server, path, Range=asked)
        assert (status, body) == (206, whole[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(whole)}"
    assert ask(server, path, Range="bytes=9999999-")[0] == 416
    for nonsense in ("bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes="):
        assert ask(server, path, Range=nonsense)[0] == 200
    status, _, body = ask(server, f"/v2/tour/shell/blobs/{digest(b'none')}")
    assert (status, code(body)) == (404, "BLOB_UNKNOWN")


def test_lists_come_in_pages(server: Server, store: Store) -> None:
    made = store.find("localhost/tour/shell")
    assert made is not None
    for name in ("quay.io/b/c:1", "localhost/a:2", "localhost/a:1", "localhost/a:3"):
        store.tag(name, made.digest)
    assert json.loads(ask(server, "/v2/_catalog")[2]) == {
        "repositories": ["a", "b/c", "tour/shell"]
    }
    assert json.loads(ask(server, "/v2/a/tags/list")[2]) == {"name": "a", "tags": ["1", "2", "3"]}
    path, seen = "/v2/a/tags/list?n=2", []
    while path:
        _, headers, body = ask(server, path)
        seen.append(json.loads(body)["tags"])
        path = headers.get("Link", "").partition(">")[0][1:]
    assert seen == [["1", "2"], ["3"]]
    status, _, body = ask(server, "/v2/_catalog?n=x")
    assert (status, code(body)) == (400, "PAGINATION_NUMBER_INVALID")
    status, _, body = ask(server, "/v2/none/tags/list")
    assert (status, code(body)) == (404, "NAME_UNKNOWN")


def test_an_upload_in_chunks(server: Server, store: Store) -> None:
    data = os.urandom(500_000)
    status, headers, _ = ask(server, "/v2/new/blobs/uploads/", "POST", b"")
    assert (status, headers["Range"]) == (202, "0-0")
    place = headers["Location"]
    status, headers, _ = ask(server, place, "PATCH", data[:200_000], Content_Range="0-199999")
    assert (status, headers["Range"]) == (202, "0-199999")
    assert ask(server, place, "PATCH", b"x", Content_Range="7-8")[0] == 416
    assert ask(server, place)[1]["Range"] == "0-199999"
    status, headers, _ = ask(server, f"{place}?digest={digest(data)}", "PUT", data[200_000:])
    assert (status, headers["Docker-Content-Digest"]) == (201, digest(data))
    assert Path(store.blob_path(digest(data))).read_bytes() == data
    status, _, body = ask(server, place, "PATCH", b"x")
    assert (status, code(body)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_at_once_and_one_with_another_digest(server: Server, store: Store) -> None:
    path = f"/v2/new/blobs/uploads/?digest={digest(b'abc')}"
    assert ask(server, path, "POST", b"abc")[0] == 201
    assert store.has_blob(digest(b"abc"), 3)
    status, _, body = ask(server, f"/v2/new/blobs/uploads/?digest={digest(b'x')}", "POST", b"y")
    assert (status, code(body)) == (400, "DIGEST_INVALID")
    assert not store.has_blob(digest(b"x"))
    assert not store.has_blob(digest(b"y"))
    place = ask(server, "/v2/new/blobs/uploads/", "POST", b"")[1]["Location"]
    assert ask(server, place, "DELETE")[0] == 204
    assert ask(server, place)[0] == 404
    assert os.listdir(store.path("tmp")) == []


def test_a_manifest_that_is_no_image_is_refused(server: Server, store: Store) -> None:
    for body, why in (
        (b"{", "is not JSON"),
        (b'{"schemaVersion":2,"manifests":[]}', "is an index, not an image"),
        (
            json.dumps({
                "schemaVersion": 2, "layers": [],
                "config": {"mediaType": media.OCI_CONFIG, "digest": digest(b"?"), "size": 1},
            }).encode(),
            "has no blob",
        ),
    ):  # fmt: skip
        status, _, answer = ask(server, "/v2/new/manifests/1", "PUT", body)
        assert (status, code(answer)) == (400, "MANIFEST_INVALID")
        assert why in json.loads(answer)["errors"][0]["message"]
    status, _, answer = ask(server, f"/v2/new/manifests/{digest(b'?')}", "PUT", b"{}")
    assert (status, code(answer)) == (400, "DIGEST_INVALID")
    assert len(store.images()) == 1


# -- by others ---------------------------------------------------------------------------------


def test_skopeo_pulls(server: Server, store: Store, tmp_path: Path) -> None:
    made = store.find("localhost/tour/shell")
    assert made is not None
    name = f"docker://127.0.0.1:{server.port}/tour/shell"
    said = json.loads(run("skopeo", "inspect", "--tls-verify=false", name))
    assert (said["Digest"], said["RepoTags"]) == (made.digest, ["latest"])
    run("skopeo", "copy", "-q", "--src-tls-verify=false", name, f"oci:{tmp_path}/out:x")
    assert json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/out:x"))["Digest"] == made.digest


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo_pushes(
    server: Server, store: Store, layout: str, tmp_path: Path, form: str
) -> None:
    host = f"127.0.0.1:{server.port}"
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--format", form,
        f"oci:{layout}:latest", f"docker://{host}/up/tool:{form}")  # fmt: skip
    made = store.find(f"localhost/up/tool:{form}")
    assert made is not None
    assert made.config["config"]["Cmd"] == ["/bin/tool"]
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{host}/up/tool:{form}",
        f"dir:{tmp_path}/out")  # fmt: skip
    assert digest((tmp_path / "out/manifest.json").read_bytes()) == made.digest
    assert os.listdir(store.path("tmp")) == []


def test_podman_pulls(server: Server, podman: list[str]) -> None:
    name = f"127.0.0.1:{server.port}/tour/shell"
    identifier = run(*podman, "pull", "-q", "--tls-verify=false", name).strip()
    said = json.loads(run(*podman, "image", "inspect", identifier))[0]
    assert said["Config"]["Cmd"] == ["/bin/sh"]
    run(*podman, "rmi", identifier)


def test_another_ctrt_pulls(server: Server, store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    made = pull(other, f"127.0.0.1:{server.port}/tour/shell")
    found = store.find("localhost/tour/shell")
    assert found is not None
    assert made.digest == found.digest
    with pytest.raises(CtrtError) as caught:
        pull(other, f"127.0.0.1:{server.port}/tour/shell:2")
    assert str(caught.value) == (
        f"cannot pull 127.0.0.1:{server.port}/tour/shell:2: the registry has no such tag"
        " (HTTP 404 MANIFEST_UNKNOWN); list its tags with: ctrt tags"
        f" 127.0.0.1:{server.port}/tour/shell"
    )
    with pytest.raises(CtrtError) as caught:
        pull(other, f"127.0.0.1:{server.port}/tour/shel")
    assert str(caught.value).endswith(
        "the registry has no repository tour/shel (HTTP 404 NAME_UNKNOWN); check its spelling"
    )


def test_a_port_that_is_taken_is_a_sentence(server: Server, store: Store) -> None:
    with pytest.raises(CtrtError) as caught:
        Server(store, server.port).start_in_thread()
    assert str(caught.value) == (
        f"images cannot be served on 127.0.0.1:{server.port}: Address already in use; choose"
        " another by --port, 0 for a free one"
    )


def test_it_stops(store: Store) -> None:
    server = Server(store).start_in_thread()
    place = ask(server, "/v2/x/blobs/uploads/", "POST", b"abc")[1]["Location"]
    assert place
    server.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v2/", timeout=5)
    assert os.listdir(store.path("tmp")) == [], "an unfinished upload goes"
    server.stop()
