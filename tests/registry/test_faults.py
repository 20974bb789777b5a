"""Registries that lie, break, stall or send us elsewhere: one sentence, and nothing kept.

After each failure the same registry behaves, and the next pull must work.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from faulty import Act, Faulty, Request
from images_tools import digest, leftovers

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images.exchange import parse_challenges
from ctrt.images.pull import pull
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store
from ctrt.images.web import is_loopback
from ctrt.oci import media


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    server = Faulty()
    yield server
    server.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def fetch(store: Store, faulty: Faulty, pauses: list[float]) -> Any:
    """Pull `x:1` with short time-outs and no waiting."""

    def go(name: str = "x:1", **options: Any) -> Image:
        client = Registry(faulty.host, plain_http=True, read_seconds=0.5, pause=pauses.append)
        try:
            return pull(store, f"{faulty.host}/{name}", registry=client, **options)
        finally:
            client.close()

    return go


def failure(fetch: Any, store: Store, faulty: Faulty, name: str = "x:1", **options: Any) -> str:
    with pytest.raises(CtrtError) as caught:
        fetch(name, **options)
    assert leftovers(store) == []
    assert store.images() == []
    for blob in os.listdir(store.path("blobs", "sha256")):
        assert digest(Path(store.path("blobs", "sha256", blob)).read_bytes())[7:] == blob
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"cannot pull {faulty.host}/{name}: ")
    text = text.removeprefix(f"cannot pull {faulty.host}/{name}: ")
    return text.replace(faulty.host, "HOST")


def layer_of(faulty: Faulty, at: int = 0) -> dict[str, Any]:
    manifest = json.loads(faulty.content["/v2/x/manifests/1"][1])
    layer: dict[str, Any] = manifest["layers"][at]
    return layer


def once(act: Act) -> Act:
    """An act for the first request only."""
    act.once = True  # type: ignore[attr-defined]
    return act


# -- blobs -------------------------------------------------------------------------------------


def truncated(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:1000])
    request.cut()
    return True


def chunked(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"3e8\r\n" + body[:1000] + b"\r\n3e8\r\n" + body[1000:1500])
    request.cut()
    return True


def short_without_length(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.send_response(200)
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(body[:1000])
    request.cut()
    return True


def too_long(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.answer(200, body + b"more")
    return True


def endless(request: Request) -> bool:
    request.send_response(200)
    request.send_header("Connection", "close")
    request.end_headers()
    while not request.server.stalled.is_set():
        request.wfile.write(bytes(1 << 20))
    return True


def other_bytes(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.answer(200, body[:-1] + bytes([body[-1] ^ 1]))
    return True


def stall(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:1000])
    request.wfile.flush()
    request.server.stalled.wait(20)
    request.close_connection = True
    return True


def other_part(request: Request) -> bool:
    _, body = request.server.content[request.path]
    request.answer(206, body[9:], {"Content-Range": f"bytes 9-{len(body) - 1}/{len(body)}"})
    return True


def gone(request: Request) -> bool:
    request.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}')
    return True


def status(number: int, **headers: str) -> Act:
    def act(request: Request) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request.answer(number, b"<html>no</html>", named)
        return True

    return act


def reset(request: Request) -> bool:
    request.cut()
    return True


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            short_without_length,
            "layer DIGEST: the connection to HOST broke after 1000 of SIZE bytes; try again",
        ),
        (
            truncated,
            "layer DIGEST: the connection to HOST broke after 1000 of SIZE bytes; try again",
        ),
        (
            chunked,
            "layer DIGEST: the connection to HOST broke after 1500 of SIZE bytes; try again",
        ),
        (
            too_long,
            "layer DIGEST is broken: more than the SIZE bytes that it should have came",
        ),
        (endless, "layer DIGEST is broken: more than the SIZE bytes that it should have came"),
        (
            other_bytes,
            "layer DIGEST is broken: its digest should be WHOLE, but what came has OTHER",
        ),
        (
            stall,
            "layer DIGEST: HOST sent nothing for 0.5 seconds after 1000 of SIZE bytes; try again",
        ),
        (other_part, "layer DIGEST: the registry sent another part than was asked for"),
        (gone, "layer DIGEST: HOST answered HTTP 404 BLOB_UNKNOWN: blob unknown"),
        (status(503), "layer DIGEST: HOST answered HTTP 503"),
        (reset, "layer DIGEST: the connection to HOST broke; try again"),
        (
            status(200, Content_Length="15"),
            "layer DIGEST: the connection to HOST broke after 15 of SIZE bytes; try again",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_layer(fetch: Any, store: Store, faulty: Faulty, act: Act, sentence: str) -> None:
    faulty.image(layers=2)
    layer = layer_of(faulty)
    place = f"/blobs/{layer['digest']}"

    def always(request: Request) -> bool:
        # A connection that breaks is taken up again; here it breaks before the next byte.
        if "Range" in request.headers and act in (truncated, chunked, short_without_length, stall):
            if act is stall:
                request.server.stalled.wait(20)
            return reset(request)
        if "Range" in request.headers and act not in (other_part, reset):
            return reset(request)
        return act(request)

    faulty.acts[place] = [always]
    body = faulty.content[f"/v2/x{place}"][1]
    other = digest(body[:-1] + bytes([body[-1] ^ 1]))
    expected = (
        sentence.replace("DIGEST", layer["digest"][7:19])
        .replace("SIZE", str(layer["size"]))
        .replace("WHOLE", layer["digest"])
        .replace("OTHER", other)
    )
    assert failure(fetch, store, faulty) == expected
    faulty.acts.clear()
    assert len(fetch().layers) == 2
    assert leftovers(store) == []


def test_a_broken_connection_is_taken_up_where_it_broke(fetch: Any, faulty: Faulty) -> None:
    faulty.image(layers=1)
    layer = layer_of(faulty)
    faulty.acts[f"/blobs/{layer['digest']}"] = [truncated, once(lambda r: False)]
    assert fetch().layers
    ranges = [headers["Range"] for path, headers in faulty.seen if "Range" in headers]
    assert ranges == ["bytes=1000-"]


def test_a_registry_without_ranges_sends_all_again(fetch: Any, faulty: Faulty) -> None:
    faulty.image(layers=1)
    layer = layer_of(faulty)

    def whole(request: Request) -> bool:
        _kind, body = request.server.content[request.path]
        request.answer(200, body)
        return True

    faulty.acts[f"/blobs/{layer['digest']}"] = [truncated, whole]
    assert fetch().layers


def test_a_blob_in_chunks(fetch: Any, faulty: Faulty) -> None:
    faulty.image()

    def act(request: Request) -> bool:
        _, body = request.server.content[request.path]
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for at in range(0, len(body), 7777):
            part = body[at : at + 7777]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        request.wfile.write(b"0\r\n\r\n")
        return True

    faulty.acts["/blobs/"] = [act]
    assert fetch().layers


def test_the_first_failure_stops_the_other_layers(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image(layers=9)
    faulty.acts[f"/blobs/{layer_of(faulty)['digest']}"] = [gone]
    faulty.acts["/blobs/"] = [lambda request: bool(time.sleep(0.05))]
    assert "BLOB_UNKNOWN" in failure(fetch, store, faulty)
    asked = {path for path, _ in faulty.seen if "/blobs/" in path}
    assert len(asked) < 9


# -- manifests ---------------------------------------------------------------------------------


def changed(**more: Any) -> Act:
    """Answer with the manifest after a change; the digest in the header stays."""

    def act(request: Request) -> bool:
        kind, body = request.server.content[request.path]
        value = {**json.loads(body), **more}
        request.answer(200, json.dumps(value).encode(), {"Content-Type": kind})
        return True

    return act


def test_a_digest_is_over_the_bytes_as_they_came(fetch: Any, faulty: Faulty) -> None:
    """Not over the JSON written again: the layout of this one is nobody's."""
    made = faulty.image(indent=5)
    assert fetch().digest == made["digest"]
    assert fetch(f"x@{made['digest']}").digest == made["digest"]


def test_a_manifest_with_another_digest(fetch: Any, store: Store, faulty: Faulty) -> None:
    made = faulty.image()
    faulty.acts["/manifests/"] = [changed(annotations={})]
    text = failure(fetch, store, faulty, f"x@{made['digest']}")
    assert text.startswith(
        f"the digest of the manifest should be {made['digest']}, but what came has sha256:"
    )


def test_a_header_with_another_digest(fetch: Any, store: Store, faulty: Faulty) -> None:
    made = faulty.image()

    def lie(request: Request) -> bool:
        kind, body = request.server.content[request.path]
        other = {"Content-Type": kind, "Docker-Content-Digest": digest(b"")}
        request.answer(200, body, other)
        return True

    faulty.acts["/manifests/"] = [lie]
    assert failure(fetch, store, faulty) == (
        f"the registry says that the manifest's digest is {digest(b'')}, but what came has"
        f" {made['digest']}"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"mediaType": media.OCI_INDEX},
            (
                "the manifest of the image is broken at $.mediaType: it was sent as"
                f" {media.OCI_MANIFEST}"
            ),
        ),
        (
            {"manifests": []},
            "the manifest of the image is broken at $: it is an image and an index at once",
        ),
        (
            {"kind": media.DOCKER_SCHEMA1[1]},
            "the manifest (schema 1) is broken: 'fsLayers'",
        ),
        (
            {"config_type": "application/vnd.cncf.helm.config.v1+json"},
            (
                "it is no container image but an artifact of type"
                " application/vnd.cncf.helm.config.v1+json"
            ),
        ),
        (
            {"layer_type": "application/x"},
            "layer 1 of the image is no file system layer: its media type is application/x",
        ),
        (
            {"layers_": [{"mediaType": "x", "digest": "sha256:../../../../etc/passwd", "size": 1}]},
            "the manifest of the image is broken at $.layers[0].digest: expected a digest",
        ),
        (
            {"config_": {"mediaType": media.OCI_CONFIG, "digest": digest(b""), "size": 9 << 20}},
            "its configuration has more than 8 MiB",
        ),
        (
            {"layers_": []},
            (
                "the configuration of the image is broken at $.rootfs.diff_ids: it has 1 entries"
                " for 0 layers"
            ),
        ),
    ],
)
def test_a_manifest_that_is_not_right(
    fetch: Any, store: Store, faulty: Faulty, options: dict[str, Any], sentence: str
) -> None:
    replaced = {key[:-1]: options.pop(key) for key in list(options) if key.endswith("_")}
    options = dict(options)
    faulty.image(**options)
    if replaced:
        kind, body = faulty.content["/v2/x/manifests/1"]
        faulty.manifest(json.dumps({**json.loads(body), **replaced}).encode(), kind, "1")
    assert failure(fetch, store, faulty) == sentence
    assert not [path for path, _ in faulty.seen if path.endswith(layer_digests(faulty))]
    faulty.content.clear()
    faulty.image()
    assert fetch().layers


def layer_digests(faulty: Faulty) -> tuple[str, ...]:
    manifest = json.loads(faulty.content["/v2/x/manifests/1"][1])
    return tuple(layer["digest"] for layer in manifest["layers"]) or ("none",)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"<html>login</html>", "the manifest of the image is not JSON: "),
        (b"", "the manifest of the image is not JSON: input data was truncated"),
        (b" " * (5 << 20), "its manifest has more than 4 MiB"),
        (b"[" * 100_000, "the manifest of the image is "),
    ],
)
def test_a_manifest_that_is_none(
    fetch: Any, store: Store, faulty: Faulty, body: bytes, sentence: str
) -> None:
    faulty.content["/v2/x/manifests/1"] = ("text/html", body)
    assert failure(fetch, store, faulty).startswith(sentence)


def test_a_config_that_is_not_right(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image()
    manifest = json.loads(faulty.content["/v2/x/manifests/1"][1])
    config = faulty.blob(b'{"architecture":"amd64"}', media.OCI_CONFIG)
    faulty.manifest(json.dumps({**manifest, "config": config}).encode(), media.OCI_MANIFEST, "1")
    assert failure(fetch, store, faulty) == (
        "the configuration of the image is broken at $: object missing required field os"
    )


def _leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value[key], (*at, key))


def _with(value: Any, at: tuple[Any, ...], new: Any) -> bytes:
    changed = copy.deepcopy(value)
    place = changed
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = new
    return json.dumps(changed).replace('"DEEP"', "[" * 3000 + "]" * 3000).encode()


@pytest.mark.parametrize("which", ["manifest", "config", "index"])
def test_a_wrong_value_anywhere_is_a_sentence_or_harmless(
    tmp_path: Path, faulty: Faulty, which: str
) -> None:
    """What comes in all the same can be listed, shown, saved and removed."""
    engine = Engine(str(tmp_path / "root"))
    made = faulty.image()
    manifest = json.loads(faulty.content["/v2/x/manifests/1"][1])
    config = json.loads(faulty.content[f"/v2/x/blobs/{manifest['config']['digest']}"][1])
    config |= {
        "created": "2020-01-01T00:00:00Z", "author": "me",
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "x", "comment": "c"},
                    {"created_by": "y", "empty_layer": True}],
        "config": {"User": "a", "Env": ["A=b"], "Entrypoint": ["/x"], "Cmd": ["y"],
                   "WorkingDir": "/", "Labels": {"a": "b"}, "Volumes": {"/v": {}},
                   "ExposedPorts": {"80/tcp": {}}, "StopSignal": "TERM", "OnBuild": ["RUN x"],
                   "Shell": ["/bin/sh"], "Healthcheck": {"Test": ["CMD"], "Interval": 1}},
    }  # fmt: skip
    index = {"schemaVersion": 2, "manifests": [on("amd64", made), on("arm", made, "v7")]}
    manifest["annotations"] = {"a": "b"}
    documents = {"manifest": manifest, "config": config, "index": index}
    document = documents[which]
    name = f"{faulty.host}/x:1"
    let_in = 0
    for at in _leaves(document):
        for new in (None, -1, 1 << 70, "\ud800\x1b[2J", {}, [None], "DEEP"):
            body = _with(document, at, new)
            if which == "config":
                described = faulty.blob(body, media.OCI_CONFIG)
                body = json.dumps({**manifest, "config": described}).encode()
            kind = media.OCI_INDEX if which == "index" else media.OCI_MANIFEST
            faulty.manifest(body, kind, "1")
            client = Registry(faulty.host, plain_http=True, pause=lambda _: None)
            try:
                pull(engine.store, name, registry=client)
            except CtrtError as error:
                assert str(error).isprintable(), (at, new)  # noqa: PT017
                assert len(str(error)) < 700, (at, new)  # noqa: PT017
                continue
            finally:
                client.close()
            let_in += 1
            for words in (["images", "--created"], ["images", "--format", "json"],
                          ["history", name], ["inspect", name], ["layers", name],
                          ["diff", name], ["save", "-o", f"{tmp_path}/x.tar", name]):  # fmt: skip
                text = str(VERBS[words[0]](engine, words[1:]))
                assert text.replace("\n", "").isprintable(), (words, at, new)
            os.unlink(tmp_path / "x.tar")
            engine.remove_image(name)
    assert let_in, "the harmless ones do come in"
    engine.store.collect()
    assert leftovers(engine.store) == []
    assert os.listdir(engine.store.path("blobs", "sha256")) == []
    engine.close()


# -- indexes -----------------------------------------------------------------------------------


def index(faulty: Faulty, *entries: dict[str, Any], tag: str = "1") -> dict[str, Any]:
    value = {"schemaVersion": 2, "manifests": entries}
    return faulty.manifest(json.dumps(value, indent=1).encode(), media.OCI_INDEX, tag)


def on(architecture: str, made: dict[str, Any], variant: str = "") -> dict[str, Any]:
    return {
        **made,
        "platform": {"os": "linux", "architecture": architecture, "variant": variant},
    }


def test_the_manifests_of_an_index_are_not_blobs(fetch: Any, faulty: Faulty) -> None:
    amd = faulty.image("a", architecture="amd64")
    arm = faulty.image("b", architecture="arm64")
    index(faulty, on("arm64", arm), on("amd64", amd))
    assert fetch(platform="linux/arm64").digest == arm["digest"]
    assert f"/v2/x/manifests/{arm['digest']}" in [path for path, _ in faulty.seen]
    assert f"/v2/x/blobs/{arm['digest']}" not in [path for path, _ in faulty.seen]
    accept = [headers["Accept"] for path, headers in faulty.seen if "/manifests/" in path]
    assert all(kind in accept[0] for kind in media.INDEXES | media.MANIFESTS)


def test_attestations_in_an_index_are_passed_over(fetch: Any, store: Store, faulty: Faulty) -> None:
    amd = faulty.image("a", architecture="amd64")
    note = {**amd, "platform": {"os": "unknown", "architecture": "unknown"}}
    index(faulty, note, on("amd64", amd))
    assert fetch(platform="linux/amd64").digest == amd["digest"]
    store.remove(f"{faulty.host}/x:1")
    assert failure(fetch, store, faulty, platform="linux/arm64") == (
        "it has no image for linux/arm64, only for linux/amd64"
    )


def test_an_index_in_an_index(fetch: Any, store: Store, faulty: Faulty) -> None:
    amd = faulty.image("a", architecture="amd64")
    inner = index(faulty, on("amd64", amd), tag="inner")
    index(faulty, inner)
    assert fetch(platform="linux/amd64").digest == amd["digest"]
    store.remove(f"{faulty.host}/x:1")
    outer = index(faulty, index(faulty, inner, tag="1"), tag="1")
    assert outer
    assert failure(fetch, store, faulty, platform="linux/amd64") == (
        "its index leads to an index again and again"
    )


def test_a_child_of_another_size(fetch: Any, store: Store, faulty: Faulty) -> None:
    amd = faulty.image("a", architecture="amd64")
    index(faulty, {**on("amd64", amd), "size": 7})
    assert failure(fetch, store, faulty, platform="linux/amd64") == (
        f"the manifest {amd['digest']} has {amd['size']} bytes; its index says 7"
    )


def test_a_child_that_is_missing(fetch: Any, store: Store, faulty: Faulty) -> None:
    amd = faulty.image("a", architecture="amd64")
    index(faulty, on("amd64", amd))
    del faulty.content[f"/v2/x/manifests/{amd['digest']}"]
    assert failure(fetch, store, faulty, platform="linux/amd64") == (
        f"its index names the manifest {amd['digest']}, which the registry does not have"
    )


def test_a_config_that_is_missing(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image()
    config = json.loads(faulty.content["/v2/x/manifests/1"][1])["config"]
    faulty.acts[f"/blobs/{config['digest']}"] = [gone]
    assert failure(fetch, store, faulty) == (
        f"configuration {config['digest'][7:19]}: HOST answered HTTP 404 BLOB_UNKNOWN: blob unknown"
    )


def test_the_first_entry_is_not_taken_for_lack_of_a_better(
    fetch: Any, store: Store, faulty: Faulty
) -> None:
    made = faulty.image("a")
    index(faulty, on("s390x", made), on("arm", made, "v7"))
    assert failure(fetch, store, faulty, platform="linux/amd64") == (
        "it has no image for linux/amd64, only for linux/arm/v7, linux/s390x"
    )


# -- trying again ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(
    fetch: Any, faulty: Faulty, pauses: list[float], number: int
) -> None:
    faulty.image()
    faulty.acts["/manifests/"] = [status(number), status(number), once(lambda r: False)]
    assert fetch().layers
    assert pauses == [0.5, 1.0]


def test_it_waits_as_long_as_it_is_told_but_not_for_ever(
    fetch: Any, faulty: Faulty, pauses: list[float]
) -> None:
    faulty.image()
    faulty.acts["/manifests/"] = [
        status(429, Retry_After="7"),
        status(429, Retry_After="86400"),
        once(lambda r: False),
    ]
    assert fetch().layers
    assert pauses == [7.0, 30.0]


def test_it_does_not_ask_for_ever(
    fetch: Any, store: Store, faulty: Faulty, pauses: list[float]
) -> None:
    faulty.acts["/manifests/"] = [status(429)]
    assert failure(fetch, store, faulty) == (
        "HOST has had too many requests from here (HTTP 429); wait a while or log in"
    )
    assert len(faulty.seen) == 5
    assert sum(pauses) < 10


def test_a_reset_connection_is_made_again(fetch: Any, faulty: Faulty) -> None:
    faulty.image()
    faulty.acts["/manifests/"] = [reset, once(lambda r: False)]
    faulty.acts["/blobs/"] = [reset, once(lambda r: False)]
    assert fetch().layers


def test_a_manifest_cut_short_is_fetched_again(fetch: Any, faulty: Faulty) -> None:
    faulty.image(size=10)
    _, body = faulty.content["/v2/x/manifests/1"]

    def cut(request: Request) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:50])
        request.cut()
        return True

    faulty.acts["/manifests/"] = [cut, once(lambda r: False)]
    assert fetch().layers


def test_a_registry_that_answers_nothing(fetch: Any, store: Store, faulty: Faulty) -> None:
    def nothing(request: Request) -> bool:
        request.server.stalled.wait(20)
        request.close_connection = True
        return True

    faulty.acts["/v2/"] = [nothing]
    started = time.monotonic()
    assert failure(fetch, store, faulty) == "HOST sent nothing for 0.5 seconds; try again"
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9\r\n", b"", b"\x15\x03\x01\x00\x02\x02\x0a"]
)
@pytest.mark.parametrize("plain", [True, None])
def test_something_that_is_no_registry(store: Store, greeting: bytes, plain: bool | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        client = Registry(host, plain_http=plain, read_seconds=1, pause=lambda _: None)
        with pytest.raises(CtrtError) as caught:
            pull(store, f"{host}/x:1", registry=client)
        listener.shutdown(socket.SHUT_RDWR)
    assert str(caught.value) == (
        f"cannot pull {host}/x:1: the connection to {host} broke; try again"
    )


# -- elsewhere ---------------------------------------------------------------------------------


def redirect(target: str, number: int = 307) -> Act:
    def act(request: Request) -> bool:
        request.answer(number, b"", {"Location": target.replace("PATH", request.path)})
        return True

    return act


def login(home: Path, host: str) -> None:
    auth = base64.b64encode(b"alice:s3cret").decode()
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def wants_basic(request: Request) -> bool:
    if request.headers.get("Authorization"):
        return False
    request.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
    return True


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_password(
    fetch: Any, faulty: Faulty, tmp_path: Path, number: int
) -> None:
    login(tmp_path, faulty.host)
    elsewhere = Faulty()
    try:
        faulty.image()
        elsewhere.content = faulty.content

        def send_away(request: Request) -> bool:
            return wants_basic(request) or redirect(f"http://{elsewhere.host}PATH", number)(request)

        faulty.acts["/manifests/"] = [wants_basic]
        faulty.acts["/blobs/"] = [send_away]
        assert fetch().layers
        assert any("Authorization" in headers for _, headers in faulty.seen)
        assert len(elsewhere.seen) == 2
        for _, headers in elsewhere.seen:
            assert "Authorization" not in headers
    finally:
        elsewhere.close()


def test_a_redirect_on_the_same_host_keeps_it(fetch: Any, faulty: Faulty, tmp_path: Path) -> None:
    login(tmp_path, faulty.host)
    faulty.image()
    for path in [path for path in faulty.content if "/blobs/" in path]:
        faulty.content["/moved/" + path.rpartition("/")[2]] = faulty.content.pop(path)
    faulty.acts["/moved"] = [wants_basic]
    faulty.acts["/v2/x/manifests"] = [wants_basic]
    faulty.acts["/v2/x/blobs"] = [
        lambda r: wants_basic(r) or redirect("/moved/" + r.path.rpartition("/")[2])(r)
    ]
    assert fetch().layers


def test_redirects_end(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.acts["/v2/"] = [redirect("PATH")]
    assert failure(fetch, store, faulty) == "HOST redirects more than 5 times"
    faulty.acts["/v2/"] = [redirect("ftp://x/")]
    assert failure(fetch, store, faulty) == "HOST redirects to nowhere (HTTP 307)"
    faulty.acts["/v2/"] = [redirect("file:///etc/passwd")]
    assert failure(fetch, store, faulty) == "HOST redirects to nowhere (HTTP 307)"


def test_a_redirect_from_https_to_http_is_refused(
    store: Store, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "pem"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x",
        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key"),
        "-out", str(pem))  # fmt: skip
    pem.write_text(pem.read_text() + (tmp_path / "key").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    secure = Faulty(str(pem))
    try:
        secure.image()
        secure.acts["/blobs/"] = [redirect(f"http://{faulty.host}PATH")]
        with pytest.raises(CtrtError) as caught:
            pull(store, f"{secure.host}/x:1")
        config = json.loads(secure.content["/v2/x/manifests/1"][1])["config"]["digest"][7:19]
        assert str(caught.value) == (
            f"cannot pull {secure.host}/x:1: configuration {config}: {secure.host} redirects"
            f" from HTTPS to plain HTTP at {faulty.host}, which is refused"
        )
        assert faulty.seen == []
    finally:
        secure.close()


def test_a_proxy_is_used_for_others_and_not_for_loopback(
    store: Store, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{faulty.host}")
    faulty.image()
    for path in list(faulty.content):
        faulty.content[f"http://registry.invalid{path}"] = faulty.content[path]
    assert pull(store, "registry.invalid/x:1", plain_http=True).layers
    assert all(path.startswith("http://registry.invalid/") for path, _ in faulty.seen)
    faulty.seen.clear()
    assert pull(store, f"{faulty.host}/x:1", plain_http=True).layers
    assert all(path.startswith("/v2/") for path, _ in faulty.seen)
    monkeypatch.setenv("no_proxy", "registry.invalid")
    with pytest.raises(CtrtError, match=r"registry\.invalid cannot be resolved"):
        pull(store, "registry.invalid/x:1", plain_http=True)


# -- tokens ------------------------------------------------------------------------------------


def wants_token(token: str, challenge: str) -> Act:
    def act(request: Request) -> bool:
        if request.headers.get("Authorization") == f"Bearer {token}":
            return False
        request.answer(401, b"", {"WWW-Authenticate": challenge})
        return True

    return act


def test_a_token_is_asked_for_where_the_challenge_says(fetch: Any, faulty: Faulty) -> None:
    """Not at a place guessed from the registry's name, and with the challenge's own scope."""
    faulty.image()
    server = Faulty()
    try:
        server.content["/odd/place?k=v&service=some+service&scope=repository%3Ax%3Apull%2Cpush"] = (
            "",
            b'{"token": "T1", "access_token": "wrong", "expires_in": 60}',
        )
        challenge = (
            f'Bearer realm="http://{server.host}/odd/place?k=v",service="some service",'
            'scope="repository:x:pull,push"'
        )
        faulty.acts["/v2/"] = [wants_token("T1", challenge)]
        assert fetch().layers
        assert len(server.seen) == 1
    finally:
        server.close()


def test_an_old_token_is_renewed_once(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image(layers=1)
    faulty.content["/token?scope=repository%3Ax%3Apull"] = ("", b'{"access_token": "T"}')
    challenge = f'Bearer realm="http://{faulty.host}/token"'
    refuse = status(401, WWW_Authenticate=challenge)
    faulty.acts["/manifests/"] = [refuse, once(lambda r: False)]
    faulty.acts["/blobs/"] = [refuse, once(lambda r: False)]
    assert fetch().layers
    store.remove(f"{faulty.host}/x:1")
    faulty.acts["/manifests/"] = [refuse]
    assert failure(fetch, store, faulty) == (
        "HOST refuses access (HTTP 401): the image is private or does not exist; log in with:"
        " ctrt login HOST"
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{}", "the token server HOST sent no token"),
        (b"[]", "the token server HOST sent no token"),
        (b'{"token": ""}', "the token server HOST sent no token"),
        (b'{"token": "a\\r\\nX: y"}', "the token server HOST sent no token"),
        (b"hello", "the token server HOST sent no token"),
    ],
)
def test_a_token_server_without_a_token(
    fetch: Any, store: Store, faulty: Faulty, body: bytes, sentence: str
) -> None:
    faulty.content["/token?scope=repository%3Ax%3Apull"] = ("", body)
    faulty.acts["/v2/"] = [wants_token("T", f'Bearer realm="http://{faulty.host}/token"')]
    assert failure(fetch, store, faulty) == sentence


def test_a_login_that_is_no_help(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.acts["/v2/"] = [status(401, WWW_Authenticate="Negotiate")]
    assert failure(fetch, store, faulty).startswith("HOST refuses access (HTTP 401): the image")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t",service=reg,scope="repository:x:pull,push"'],
            [("bearer", {"realm": "https://a/t", "service": "reg",
                         "scope": "repository:x:pull,push"})],
        ),
        (
            ['Negotiate, Basic realm="a \\"b\\"" , Bearer realm=x'],
            [("negotiate", {}), ("basic", {"realm": 'a "b"'}), ("bearer", {"realm": "x"})],
        ),
        (["Basic", 'bearer REALM = "x"'], [("basic", {}), ("bearer", {"realm": "x"})]),
        (["", ",,", '="x"'], []),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.255.0.9", True),
        ("[::1]:5000", True),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:5000", False),
        ("127.0.0.evil", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("docker.io", False),
    ],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# -- being killed ------------------------------------------------------------------------------

PULL = """
import sys; sys.path[:0] = eval(sys.argv[1])
from ctrt.images.store import Store; from ctrt.images.pull import pull
pull(Store(sys.argv[2]), sys.argv[3], plain_http=True)
"""


def test_kill_9_in_the_middle_of_a_pull(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image(layers=2)
    place = f"/blobs/{layer_of(faulty, 1)['digest']}"
    reached = threading.Event()

    def hang(request: Request) -> bool:
        reached.set()
        return stall(request)

    faulty.acts[place] = [hang]
    path = repr([p for p in sys.path if p])
    child = subprocess.Popen([sys.executable, "-c", PULL, path, store.root, f"{faulty.host}/x:1"])
    assert reached.wait(30)
    first = store.blob_path(layer_of(faulty, 0)["digest"])
    for _ in range(200):
        if os.path.exists(first):
            break
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    faulty.stalled.set()
    assert store.images() == []
    assert len(os.listdir(store.path("partial"))) == 1
    faulty.acts.clear()
    faulty.seen.clear()
    assert fetch().layers
    assert os.listdir(store.path("tmp")) == []
    assert os.listdir(store.path("partial")) == []
    asked = [path for path, _ in faulty.seen]
    assert f"/v2/x{place}" in asked
    assert os.path.basename(first) not in "".join(asked), "finished work is kept"


# -- headers -----------------------------------------------------------------------------------

ODD = (
    "", "\x00", "\xe9", "x" * 60_000, "-1", "99999999999999999999", "1e5", "http://[::1",
    "http://[x]/y", "http://", "ftp://x", "http://a b/c", "http://x:99999/", "http://x:abc/", "?",
    "file:///etc/passwd", "http://\x7f/", "Bearer", 'Bearer realm="http://["',
    'Bearer realm="http://x:abc/t"', 'Basic realm="x', "Negotiate", "bytes 0-1/2", "bytes */5",
    "bytes 99-100/5", "bytes 1e5-", "\xb2", "9" * 5000, "gzip", "zstd", "chunked", "text/html",
    media.DOCKER_SCHEMA1[0],
    "sha256:" + "0" * 64, '</v2/x>; rel="next"', "<" * 999,
)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (200, "Content-Length"), (200, "Content-Encoding"), (200, "Transfer-Encoding"),
        (200, "Content-Type"), (200, "Docker-Content-Digest"), (206, "Content-Range"),
        (302, "Location"), (401, "WWW-Authenticate"), (429, "Retry-After"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["/manifests/", "/blobs/"])
def test_an_odd_header_is_a_sentence_or_harmless(
    tmp_path: Path, faulty: Faulty, place: str, status: int, header: str
) -> None:
    """Whatever a header says, the client says what is wrong, or does not care."""
    faulty.image(size=5000)
    for number, value in enumerate(ODD):
        store = Store(f"{tmp_path}/{number}")

        def act(request: Request, value: str = value) -> bool:
            kind, body = faulty.content.get(request.path, ("", b""))
            lines = {"Content-Length": str(len(body)), "Content-Type": kind, header: value}
            text = "".join(f"{name}: {said}\r\n" for name, said in lines.items())
            request.wfile.write(f"HTTP/1.1 {status} X\r\n{text}\r\n".encode("latin-1") + body)
            request.close_connection = True
            return True

        faulty.acts[place] = [act]
        client = Registry(faulty.host, plain_http=True, read_seconds=0.1, pause=lambda _: None)
        try:
            pull(store, f"{faulty.host}/x:1", registry=client)
        except CtrtError as error:
            assert str(error).isprintable(), (value, str(error))  # noqa: PT017
            assert len(str(error)) < 900, value  # noqa: PT017
        finally:
            client.close()
        assert os.listdir(store.path("tmp")) == []


@pytest.mark.parametrize(
    "said",
    ['{"token": "\u4e2d"}', '{"token": 5}', '{"token": "a\\r\\nX: y"}', "[]", "null",
     "[" * 50_000, '{"access_token": ""}', "\x1f\x8b\x08"],
)  # fmt: skip
def test_a_token_that_is_none(fetch: Any, store: Store, faulty: Faulty, said: str) -> None:
    faulty.image()

    def answer(request: Request) -> bool:
        request.answer(200, said.encode())
        return True

    def refuse(request: Request) -> bool:
        request.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{faulty.host}/t"'})
        return True

    faulty.acts |= {"/t?": [answer], "/v2/": [refuse]}
    assert failure(fetch, store, faulty) == "the token server HOST sent no token"


def test_an_error_whose_text_is_hostile(fetch: Any, store: Store, faulty: Faulty) -> None:
    faulty.image()
    hostile = '{"errors": [{"code": "A\\u001b[2J", "message": "\\u001b[2J\\ud800"}]}'
    wrong = '{"errors": [{"code": {}, "message": [1]}]}'
    for body in ("[" * 50_000, '{"errors": [[]]}', wrong, hostile):

        def refuse(request: Request, body: str = body) -> bool:
            request.answer(403, body.encode())
            return True

        faulty.acts["/manifests/"] = [refuse]
        assert failure(fetch, store, faulty).isprintable()


def test_pages_that_lead_round_in_a_circle(faulty: Faulty) -> None:
    def pages(request: Request) -> bool:
        path, _, query = request.path.partition("?last=")
        turn = (int(query or 0) + 1) % 3
        key = "repositories" if "_catalog" in path else "tags"
        body = json.dumps({key: [f"r{turn}"]}).encode()
        request.answer(200, body, {"Link": f'<{path}?last={turn}>; rel="next"'})
        return True

    faulty.acts["/v2/"] = [pages]
    client = Registry(faulty.host, plain_http=True, read_seconds=1, pause=lambda _: None)
    for asked, key in ((client.catalog, "repositories"), (lambda: client.tags("x"), "tags")):
        with pytest.raises(CtrtError) as caught:
            list(asked())
        assert str(caught.value) == (
            f"the pages of {key} that {faulty.host} sends lead round in a circle"
        )
    client.close()
    assert len(faulty.seen) < 12
