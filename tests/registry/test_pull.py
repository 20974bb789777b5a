"""Pulling from a real registry what real tools pushed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from conftest import free_port, run
from faulty import Faulty
from images_tools import leftovers

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import certificates, layers
from ctrt.images.pull import Progress, pull
from ctrt.images.registry import Registry
from ctrt.images.store import Store
from ctrt.oci import media

WORLD = "root" if os.geteuid() == 0 else "single"


def failure(store: Store, name: str, **options: Any) -> str:
    """The sentence of a pull that fails; the store must be as if nothing had happened."""
    with pytest.raises(CtrtError) as caught:
        pull(store, name, **options)
    assert leftovers(store) == []
    assert store.images() == []
    text = str(caught.value)
    assert text.startswith(f"cannot pull {name}: ")
    return text.removeprefix(f"cannot pull {name}: ")


@pytest.mark.parametrize(
    ("tag", "kind"), [("oci", media.OCI_MANIFEST), ("docker", media.DOCKER_MANIFEST)]
)
def test_pull_and_unpack(store: Store, registry: str, layout: str, tag: str, kind: str) -> None:
    seen: list[Progress] = []
    made = pull(store, f"{registry}/group/tool:{tag}", progress=seen.append)
    assert made.media_type == kind
    assert made.reference == f"{registry}/group/tool:{tag}"
    said = json.loads(
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/group/tool:{tag}")
    )
    assert made.digest == said["Digest"]
    assert [layer.digest for layer in made.layers] == said["Layers"]
    assert made.config["config"] == {"Cmd": ["/bin/tool"], "Env": ["A=b"]}
    for layer in made.layers:
        events = [p for p in seen if p.layer == layer.digest[7:19]]
        assert (events[0].status, events[0].done) == ("downloading", 0)
        assert (events[-1].status, events[-1].done) == ("done", layer.size)
        assert [p.done for p in events] == sorted(p.done for p in events)
    upper, lower = map(Path, layers.unpack(store, made, layers.Unpacker(WORLD)))
    tree = Path(layout).parent / "tree"
    assert (lower / "bin/tool").read_bytes() == (tree / "bin/tool").read_bytes()
    assert os.lstat(upper / "etc/old").st_rdev == 0
    assert not (upper / "etc/old").is_file()
    found = store.find(made.reference)
    assert found is not None
    assert found.digest == made.digest


def test_a_second_pull_fetches_no_layer(store: Store, registry: str) -> None:
    pull(store, f"{registry}/group/tool:oci")
    seen: list[Progress] = []
    pull(store, f"{registry}/group/tool:docker", progress=seen.append)
    assert [p.status for p in seen] == ["exists", "exists"]


def test_pull_by_digest(store: Store, registry: str) -> None:
    digest = pull(store, f"{registry}/group/tool:oci").digest
    other = Store(store.root + "2")
    made = pull(other, f"{registry}/group/tool@{digest}")
    assert (made.digest, made.reference) == (digest, f"{registry}/group/tool@{digest}")
    assert other.find(f"{registry}/group/tool@{digest}") is not None


def test_skopeo_reads_the_store(store: Store, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/group/tool:oci"
    made = pull(store, name)
    said = json.loads(run("skopeo", "inspect", f"oci:{store.root}:{name}"))
    assert said["Digest"] == made.digest
    run("skopeo", "copy", "-q", f"oci:{store.root}:{name}", f"dir:{tmp_path}/out")


@pytest.fixture(scope="module")
def multi(registry: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`multi:oci` and `multi:v2s2`: an index of four platforms, made and pushed by buildah."""
    if not shutil.which("buildah") or os.geteuid() != 0:
        pytest.skip("needs buildah as root")
    tmp = tmp_path_factory.mktemp("buildah")
    place = ["--root", str(tmp / "b"), "--runroot", str(tmp / "r"), "--storage-driver", "vfs"]

    def buildah(*words: str) -> str:
        return run("buildah", *place, *words).strip()

    try:
        buildah("manifest", "create", "list")
        for arch, variant in (("amd64", ""), ("arm64", ""), ("arm", "v6"), ("arm", "v7")):
            more = ["--variant", variant] if variant else []
            box = buildah("from", "--arch", arch, *more, "scratch")
            (tmp / "arch").write_text(arch + variant)
            buildah("copy", "-q", box, str(tmp / "arch"), "/")
            buildah("config", "--arch", arch, *more, box)
            buildah("commit", "-q", box, f"localhost/{arch}{variant}")
            buildah("manifest", "add", "--arch", arch, *more, "list",
                    f"containers-storage:localhost/{arch}{variant}")  # fmt: skip
        for form in ("oci", "v2s2"):
            buildah("manifest", "push", "-q", "--all", "-f", form, "--tls-verify=false", "list",
                    f"docker://{registry}/multi:{form}")  # fmt: skip
    finally:
        subprocess.run(["buildah", *place, "rm", "--all"], capture_output=True, check=False)
    return f"{registry}/multi"


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_an_index_gives_the_platform_asked_for(store: Store, multi: str, form: str) -> None:
    name = f"{multi}:{form}"
    for platform, content in (
        ("linux/amd64", "amd64"),
        ("linux/arm64", "arm64"),
        ("linux/arm64/v8", "arm64"),
        ("linux/arm", "armv7"),
        ("linux/arm/v6", "armv6"),
        ("linux/arm/v8", "armv7"),
    ):
        made = pull(store, name, platform=platform)
        assert made.config["architecture"] == platform.split("/")[1]
        (path,) = layers.unpack(store, made, layers.Unpacker(WORLD))
        assert Path(path, "arch").read_text() == content
        assert len(store.images()) == 1, "the name moves"
    store.remove(name)
    assert failure(store, name, platform="linux/s390x") == (
        "it has no image for linux/s390x, only for linux/amd64, linux/arm/v6, linux/arm/v7,"
        " linux/arm64"
    )
    assert failure(store, name, platform="windows/amd64").startswith("it has no image for windows")


def test_a_platform_that_the_single_image_is_not_for(store: Store, registry: str) -> None:
    name = f"{registry}/group/tool:oci"
    assert (
        failure(store, name, platform="linux/arm64") == "it is for linux/amd64, not for linux/arm64"
    )
    with pytest.raises(CtrtError) as caught:
        pull(store, name, platform="arm64")
    assert str(caught.value) == (
        '"arm64" is not a platform; expected one like linux/amd64 or linux/arm/v7'
    )


# -- what is not there -------------------------------------------------------------------------


def test_no_such_tag(store: Store, registry: str) -> None:
    assert failure(store, f"{registry}/group/tool:13") == (
        "the registry has no such tag (HTTP 404 MANIFEST_UNKNOWN); list its tags with:"
        f" ctrt tags {registry}/group/tool"
    )
    pull(store, f"{registry}/group/tool:oci")


def test_the_command_in_the_error_works(store: Store, registry: str) -> None:
    with pytest.raises(CtrtError) as caught:
        pull(store, f"{registry}/group/tool:13")
    command = str(caught.value).partition("list its tags with: ctrt ")[2].split()
    assert str(VERBS[command[0]](Engine(store.root), command[1:])).split() == [
        "TAG", "docker", "oci",
    ]  # fmt: skip


def test_no_such_digest(store: Store, registry: str) -> None:
    assert failure(store, f"{registry}/group/tool@sha256:{'0' * 64}").startswith(
        "the registry has no such image of that digest (HTTP 404 MANIFEST_UNKNOWN); list its tags"
    )


def test_no_such_repository(store: Store, registry: str) -> None:
    assert failure(store, f"{registry}/group/tol:1") == (
        "the registry has no repository group/tol (HTTP 404 MANIFEST_UNKNOWN); check its spelling"
    )


def test_no_registry(store: Store) -> None:
    host = f"localhost:{free_port()}"
    assert failure(store, f"{host}/x:1") == (
        f"no registry answers at {host} (connection refused); check that it is running"
    )


def test_no_such_host(store: Store) -> None:
    assert failure(store, "registry.invalid/x:1") == (
        "the name registry.invalid cannot be resolved; check its spelling and the network"
    )


# -- TLS and credentials -----------------------------------------------------------------------


# bcrypt, as docker-registry wants it
S3CRET = "$2b$05$UCXzFWFtxno.iv75hOM.u.9294OxTQa7j0vHR5fyybRknlD7AalgC"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    place = tmp_path_factory.mktemp("tls")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(place / "key"), "-out", str(place / "crt"))  # fmt: skip
    return place


def login(home: Path, host: str, text: str) -> None:
    (home / "containers").mkdir(exist_ok=True)
    auth = base64.b64encode(text.encode()).decode()
    (home / "containers/auth.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


@pytest.fixture(scope="module")
def private(start_registry: Callable[..., str], certificate: Path, layout: str) -> str:
    """A registry with TLS and a password."""
    users = certificate / "htpasswd"
    users.write_text(f"alice:{S3CRET}\n")
    host = start_registry(
        f", tls: {{certificate: {certificate}/crt, key: {certificate}/key}}",
        f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n",
    )
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "alice:s3cret",
        f"oci:{layout}:latest", f"docker://{host}/tool:1")  # fmt: skip
    return host


def test_an_unknown_authority(store: Store, private: str) -> None:
    assert failure(store, f"{private}/tool:1") == (
        f"the TLS certificate of {private} is not trusted (self-signed certificate); put"
        f" the certificate of its authority as ca.crt into {certificates.place(private)}"
    )


def test_basic_credentials(
    store: Store, private: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "crt"))
    assert failure(store, f"{private}/tool:1") == (
        f"{private} refuses access (HTTP 401 UNAUTHORIZED): the image is private or does not"
        f" exist; log in with: ctrt login {private}"
    )
    login(tmp_path, private, "alice:wrong")
    assert failure(store, f"{private}/tool:1") == (
        f"{private} refuses the user alice (HTTP 401 UNAUTHORIZED), whose credentials are in"
        f" {tmp_path}/containers/auth.json; log in again with: ctrt login {private}"
    )
    login(tmp_path, private, "alice:s3cret")
    assert pull(store, f"{private}/tool:1").layers


def test_plain_http_is_not_tried_where_tls_answers(
    store: Store, private: str, registry: str
) -> None:
    assert "speaks plain HTTP" in failure(store, f"{registry}/group/tool:oci", plain_http=False)
    text = failure(store, f"{private}/tool:1", plain_http=True)
    assert text.startswith(f"{private} answered HTTP 400")


class Tokens(ThreadingHTTPServer):
    """A token server as distribution's token.md has it; JWTs are signed by openssl."""

    daemon_threads = True

    def __init__(self, place: Path) -> None:
        super().__init__(("127.0.0.1", 0), TokenRequest)
        self.place = place
        self.asked: list[tuple[dict[str, list[str]], str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def token(self, scopes: list[str], user: str) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if user else [a for a in actions.split(",") if a == "pull"]
            if name.startswith("private/") and not user:
                allowed = []
            access.append({"type": kind, "name": name, "actions": allowed})

        def pack(value: bytes) -> bytes:
            return base64.urlsafe_b64encode(value).rstrip(b"=")

        der = run("openssl", "x509", "-in", str(self.place / "crt"))
        body = "".join(der.splitlines()[1:-1])
        head = json.dumps({"typ": "JWT", "alg": "RS256", "x5c": [body]}).encode()
        claims = {
            "iss": "ctrt-test", "aud": "registry", "sub": user, "exp": 4_000_000_000,
            "nbf": 0, "iat": 0, "jti": "1", "access": access,
        }  # fmt: skip
        signed = pack(head) + b"." + pack(json.dumps(claims).encode())
        mark = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.place / "key")],
            input=signed, capture_output=True, check=True,
        ).stdout  # fmt: skip
        return (signed + b"." + pack(mark)).decode()


class TokenRequest(BaseHTTPRequestHandler):
    server: Tokens

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        basic = self.headers.get("Authorization", "").removeprefix("Basic ")
        user = base64.b64decode(basic).decode()
        self.server.asked.append((query, user))
        if user not in ("", "alice:s3cret"):
            self.send_response(401)
            self.end_headers()
            return
        body = json.dumps({"access_token": self.server.token(query.get("scope", []), user)})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def guarded(
    start_registry: Callable[..., str], certificate: Path, layout: str
) -> tuple[str, Tokens]:
    """A registry that wants tokens, and the server that gives them."""
    tokens = Tokens(certificate)
    realm = f"http://127.0.0.1:{tokens.server_address[1]}/deep/token"
    host = start_registry(
        "",
        f"auth: {{token: {{realm: '{realm}', service: registry, issuer: ctrt-test,"
        f" rootcertbundle: {certificate}/crt}}}}\n",
    )
    for name in ("public/tool", "private/tool"):
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "alice:s3cret",
            f"oci:{layout}:latest", f"docker://{host}/{name}:1")  # fmt: skip
    return host, tokens


def test_anonymous_token(store: Store, guarded: tuple[str, Tokens]) -> None:
    host, tokens = guarded
    tokens.asked.clear()
    assert pull(store, f"{host}/public/tool:1").layers
    assert tokens.asked == [
        ({"service": ["registry"], "scope": ["repository:public/tool:pull"]}, "")
    ], "one token for all requests"


def test_token_with_credentials(store: Store, guarded: tuple[str, Tokens], tmp_path: Path) -> None:
    host, tokens = guarded
    assert failure(store, f"{host}/private/tool:1") == (
        f"{host} refuses access (HTTP 401 UNAUTHORIZED): the image is private or does not exist;"
        f" log in with: ctrt login {host}"
    )
    login(tmp_path, f"{host}/private", "alice:wrong")
    realm = f"127.0.0.1:{tokens.server_address[1]}"
    assert failure(store, f"{host}/private/tool:1") == (
        f"its token server {realm} refuses the user alice (HTTP 401), whose credentials are in"
        f" {tmp_path}/containers/auth.json; log in again with: ctrt login {host}"
    )
    login(tmp_path, f"{host}/private", "alice:s3cret")
    assert pull(store, f"{host}/private/tool:1").layers
    assert tokens.asked[-1][1] == "alice:s3cret"


def test_broken_credentials_are_a_sentence(
    store: Store, guarded: tuple[str, Tokens], tmp_path: Path
) -> None:
    login(tmp_path, guarded[0], "x")
    path = tmp_path / "containers/auth.json"
    path.write_text("{")
    assert failure(store, f"{guarded[0]}/public/tool:1").startswith(
        f"the credentials in {path} cannot be read ("
    )


def test_two_processes_pull_the_same(store: Store, registry: str) -> None:
    names = [f"{registry}/group/tool:{tag}" for tag in ("oci", "docker", "oci", "docker")]
    problems: list[BaseException] = []

    def work(name: str) -> None:
        try:
            made = pull(Store(store.root), name)
            layers.unpack(Store(store.root), made, layers.Unpacker(WORLD))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(store.images()) == 2
    assert os.listdir(store.path("tmp")) == []
    assert len(os.listdir(store.path("layers"))) == 2


def test_an_interrupted_pull_keeps_nothing_half_made(store: Store, registry: str) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(store, f"{registry}/group/tool:oci", progress=interrupt)
    assert leftovers(store) == []
    assert store.images() == []
    assert pull(store, f"{registry}/group/tool:oci").layers


def test_the_client_says_whether_the_registry_is_plain(registry: str) -> None:
    client = Registry(registry)
    client.manifest("group/tool", "oci")
    assert client.plain
    client.close()


def test_an_old_manifest_is_pulled_as_an_image_of_today(store: Store, registry: str) -> None:
    """docker-registry makes schema 1 of an image for clients that do not ask for better."""
    with urlopen(f"http://{registry}/v2/group/tool/manifests/docker") as answer:
        kind, data = answer.headers["Content-Type"], answer.read()
    assert kind in media.DOCKER_SCHEMA1
    old = Faulty()
    try:
        today = pull(Store(store.root + "2"), f"{registry}/group/tool:docker")
        blobs = {layer["blobSum"] for layer in json.loads(data)["fsLayers"]}
        for blob in blobs:
            with urlopen(f"http://{registry}/v2/group/tool/blobs/{blob}") as answer:
                old.content[f"/v2/x/blobs/{blob}"] = ("", answer.read())
        old.content["/v2/x/manifests/1"] = (kind, data)
        made = pull(store, f"{old.host}/x:1", plain_http=True)
        assert [layer.digest for layer in made.layers] == [layer.digest for layer in today.layers]
        assert [layer.diff_id for layer in made.layers] == [layer.diff_id for layer in today.layers]
        assert made.config["config"]["Cmd"] == ["/bin/tool"]
        assert len(layers.unpack(store, made, layers.Unpacker(WORLD))) == 2
    finally:
        old.close()
