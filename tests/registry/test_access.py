"""Who we are and whom we trust: logins, helpers, tokens, certificates; mirrors and short names."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import free_port, run
from faulty import Faulty, Request

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import auth
from ctrt.images.pull import pull
from ctrt.images.store import Store
from ctrt.images.transports import Options
from ctrt.oci import media

# bcrypt, as docker-registry wants it
S3CRET = "$2b$05$UCXzFWFtxno.iv75hOM.u.9294OxTQa7j0vHR5fyybRknlD7AalgC"
KIND = media.OCI_LAYER_GZIP.replace("layer.v1", "layer.nondistributable.v1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA of our own, a server certificate for 127.0.0.1 and a client's."""
    place = tmp_path_factory.mktemp("ca")

    def openssl(*words: str) -> None:
        run("openssl", *words)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=ctrt CA", "-keyout", f"{place}/ca.key",
            "-out", f"{place}/ca.crt")  # fmt: skip
    for name, more in (
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("client", "keyUsage=digitalSignature"),
    ):
        (place / f"{name}.ext").write_text(more)
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{place}/{name}.key", "-out", f"{place}/{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{place}/{name}.csr", "-days", "2",
                "-CA", f"{place}/ca.crt",
                "-CAkey", f"{place}/ca.key", "-CAcreateserial", "-extfile", f"{place}/{name}.ext",
                "-out", f"{place}/{name}.cert")  # fmt: skip
    return place


@pytest.fixture(scope="module")
def guarded(start_registry: Callable[..., str], authority: Path, layout: str) -> str:
    """A registry that shows a certificate of that CA and wants one of a client, and a password."""
    users = authority / "htpasswd"
    users.write_text(f"alice:{S3CRET}\n")
    host = start_registry(
        f", tls: {{certificate: {authority}/server.cert, key: {authority}/server.key,"
        f" clientcas: [{authority}/ca.crt]}}",
        f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n",
    )
    both = authority / "both"
    both.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (both / name).write_bytes((authority / name).read_bytes())
    run("skopeo", "copy", "-q", "--dest-cert-dir", str(both), "--dest-creds", "alice:s3cret",
        f"oci:{layout}:latest", f"docker://{host}/tool:1")  # fmt: skip
    return host


def certificates(authority: Path, place: Path, *names: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / name).write_bytes((authority / name).read_bytes())
    return place


def failure(store: Store, name: str, options: Options | None = None) -> str:
    with pytest.raises(CtrtError) as caught:
        pull(store, name, options=options)
    assert store.images() == []
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"cannot pull {name}: ")


def logged_in(home: Path, host: str, user: str = "alice:s3cret") -> Path:
    path = home / "containers/auth.json"
    path.parent.mkdir(exist_ok=True)
    text = base64.b64encode(user.encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": text}}}))
    return path


# -- TLS ---------------------------------------------------------------------------------------


def test_certs_d_has_authorities_and_client_certificates(
    store: Store, guarded: str, authority: Path, tmp_path: Path
) -> None:
    logged_in(tmp_path, guarded)
    name = f"{guarded}/tool:1"
    place = tmp_path / ".config/containers/certs.d" / guarded
    assert "the TLS certificate of" in failure(store, name)
    certificates(authority, place, "ca.crt")
    assert f"{guarded} wants a client certificate; put it and its key" in failure(store, name)
    certificates(authority, place, "client.cert")
    assert failure(store, name) == (
        f"the client certificate {place}/client.cert has no key client.key beside it"
    )
    certificates(authority, place, "client.key")
    assert pull(store, name).layers


def test_a_directory_of_certificates_can_be_named(
    store: Store, guarded: str, authority: Path, tmp_path: Path
) -> None:
    place = certificates(authority, tmp_path / "c", "ca.crt", "client.cert", "client.key")
    login = auth.Login("alice", "s3cret", "", "--creds")
    assert pull(store, f"{guarded}/tool:1", options=Options(cert_dir=str(place), login=login))
    missing = Options(cert_dir=str(tmp_path / "none"), login=login)
    other = Store(store.root + "2")
    assert failure(other, f"{guarded}/tool:1", missing) == (
        f"there is no directory {tmp_path}/none of certificates"
    )
    (place / "ca.crt").write_text("nonsense")
    assert "ca.crt is no certificate in PEM format" in failure(
        other, f"{guarded}/tool:1", Options(cert_dir=str(place), login=login)
    )


def test_tls_verify_false_takes_any_certificate(
    store: Store, guarded: str, authority: Path, tmp_path: Path
) -> None:
    place = certificates(authority, tmp_path / "c", "client.cert", "client.key")
    login = auth.Login("alice", "s3cret", "", "--creds")
    options = Options(cert_dir=str(place), login=login, insecure=True)
    assert pull(store, f"{guarded}/tool:1", options=options).layers


def test_tls_verify_false_speaks_plain_http_too(store: Store, registry: str) -> None:
    assert pull(store, f"{registry}/group/tool:oci", options=Options(insecure=True)).layers


# -- credentials -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private(
    start_registry: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, layout: str
) -> str:
    """A registry with a password, by plain HTTP."""
    users = tmp_path_factory.mktemp("users") / "htpasswd"
    users.write_text(f"alice:{S3CRET}\n")
    host = start_registry("", f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n")
    for name in ("tool", "group/tool"):
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "alice:s3cret",
            f"oci:{layout}:latest", f"docker://{host}/{name}:1")  # fmt: skip
    return host


def verb(store: Store, name: str, *words: str) -> str:
    return str(VERBS[name](Engine(store.root), words))


def test_login_checks_and_writes_and_logout_forgets(
    store: Store, private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "containers/auth.json"
    path.parent.mkdir()
    path.write_text('{"auths": {"other.io": {"auth": "YTpi"}}, "kept": 1}')

    def login(password: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
        return verb(store, "login", "-u", "alice", "--password-stdin", private)

    with pytest.raises(CtrtError) as caught:
        login("wrong")
    assert str(caught.value) == f"login: {private} refuses the user alice with this password"
    assert private not in path.read_text()
    assert login("s3cret") == f"logged in to {private} as alice; written to {path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["kept"] == 1
    device = tmp_path / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(CtrtError, match="null, which is no file"):
        verb(store, "login", "-u", "alice", "-p", "s3cret", "--authfile", str(device), private)
    assert stat.S_ISCHR(device.stat().st_mode), "a device is not replaced"
    assert verb(store, "login", "--get-login", private) == "alice"
    assert pull(store, f"{private}/tool:1").layers
    run("skopeo", "inspect", "--tls-verify=false", "--authfile", str(path),
        f"docker://{private}/tool:1")  # fmt: skip
    verb(store, "logout", private)
    assert json.loads(path.read_text())["auths"] == {"other.io": {"auth": "YTpi"}}
    with pytest.raises(CtrtError, match=f"nobody is logged in to {private}"):
        verb(store, "logout", private)
    verb(store, "logout", "--all")
    assert json.loads(path.read_text())["auths"] == {}


def test_what_skopeo_logged_in_to_we_are_too(store: Store, private: str, tmp_path: Path) -> None:
    path = tmp_path / "skopeo.json"
    run("skopeo", "login", "--tls-verify=false", "--authfile", str(path), "-u", "alice",
        "-p", "s3cret", private)  # fmt: skip
    assert pull(store, f"{private}/tool:1", options=Options(authfile=str(path))).layers


def test_the_narrowest_entry_wins(store: Store, private: str, tmp_path: Path) -> None:
    path = logged_in(tmp_path, private, "alice:wrong")
    said = json.loads(path.read_text())
    said["auths"][f"{private}/group"] = {"auth": base64.b64encode(b"alice:s3cret").decode()}
    path.write_text(json.dumps(said))
    assert f"refuses the user alice (HTTP 401 UNAUTHORIZED), whose credentials are in {path};" in (
        failure(store, f"{private}/tool:1")
    )
    assert pull(store, f"{private}/group/tool:1").layers


HELPER = """#!/bin/sh
read -r host
echo "$1 $host" >> {log}
case "$1 $host" in
"get {known}") echo '{{"ServerURL": "x", "Username": "{user}", "Secret": "{secret}"}}' ;;
get*) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a docker-credential-test that knows one registry."""

    def make(known: str, user: str = "alice", secret: str = "s3cret") -> Path:
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        log = tmp_path / "helper.log"
        program = place / "docker-credential-test"
        program.write_text(HELPER.format(log=log, known=known, user=user, secret=secret))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        return log

    return make


@pytest.mark.parametrize("which", ["credHelpers", "credsStore"])
def test_credential_helpers(
    store: Store, private: str, tmp_path: Path, helper: Callable[..., Path], which: str
) -> None:
    log = helper(private)
    docker = tmp_path / ".docker/config.json"
    docker.parent.mkdir()
    docker.write_text(json.dumps({which: {private: "test"} if which == "credHelpers" else "test"}))
    assert pull(store, f"{private}/tool:1").layers
    assert set(log.read_text().splitlines()) == {f"get {private}"}
    assert auth.lookup("unknown.io") is None


def test_a_helper_that_is_missing_is_named(
    store: Store, private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"credHelpers": {private: "nowhere"}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    assert failure(store, f"{private}/tool:1") == (
        f"{path} wants the credential helper docker-credential-nowhere, which is not installed"
    )


def test_an_identity_token_is_exchanged(
    store: Store, helper: Callable[..., Path], tmp_path: Path
) -> None:
    server = Faulty()
    try:
        server.image("1")
        helper(server.host, "<token>", "REFRESH")
        (tmp_path / "containers").mkdir()
        (tmp_path / "containers/auth.json").write_text(
            json.dumps({"credHelpers": {server.host: "test"}})
        )
        forms: list[bytes] = []

        def post(request: Request) -> None:
            forms.append(request.rfile.read(int(request.headers["Content-Length"])))
            request.answer(200, b'{"access_token": "ACCESS"}')

        def guard(request: Request) -> bool:
            if request.headers.get("Authorization") == "Bearer ACCESS":
                return False
            mark = f'Bearer realm="http://{server.host}/token",service="s"'
            request.answer(401, b"", {"WWW-Authenticate": mark})
            return True

        server.acts["/v2/"] = [guard]
        Request.do_POST = post  # type: ignore[attr-defined]
        assert pull(store, f"{server.host}/x:1", plain_http=True).layers
        assert forms == [
            (
                b"grant_type=refresh_token&service=s&client_id=ctrt"
                b"&scope=repository%3Ax%3Apull&refresh_token=REFRESH"
            )
        ]
    finally:
        del Request.do_POST  # type: ignore[attr-defined]
        server.close()


# -- mirrors, short names, foreign layers ------------------------------------------------------


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    path = tmp_path / "registries.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))

    def write(text: str) -> None:
        path.write_text(text)

    return write


def test_a_short_name_is_pulled_from_the_search_list(
    store: Store, registry: str, mirrored: Callable[..., None]
) -> None:
    mirrored(f'unqualified-search-registries = ["localhost:{free_port()}", "{registry}/group"]')
    made = pull(store, "tool:oci")
    assert made.reference == f"{registry}/group/tool:oci"
    found = store.find("tool:oci")
    assert found is not None
    assert found.digest == made.digest
    with pytest.raises(CtrtError) as caught:
        pull(store, "tool:none")
    assert "no registry answers at localhost" in str(caught.value)
    assert f"{registry}/group/tool:none: the registry has no such tag" in str(caught.value)


def test_mirrors_come_first_and_the_registry_is_the_last_resort(
    store: Store, registry: str, mirrored: Callable[..., None]
) -> None:
    gone = f"localhost:{free_port()}"
    mirrored(
        f'[[registry]]\nprefix = "far.invalid"\nlocation = "{registry}"\n'
        f'[[registry.mirror]]\nlocation = "{gone}/cache"\n'
    )
    made = pull(store, "far.invalid/group/tool:oci")
    assert made.reference == "far.invalid/group/tool:oci"
    mirrored(
        f'[[registry]]\nlocation = "far.invalid"\n[[registry.mirror]]\nlocation = "{registry}"\n'
    )
    other = Store(store.root + "2")
    assert pull(other, "far.invalid/group/tool:docker").layers
    with pytest.raises(CtrtError) as caught:
        pull(other, "far.invalid/group/tool:13")
    assert str(caught.value) == (
        "cannot pull far.invalid/group/tool:13: the name far.invalid cannot be resolved; check its"
        f" spelling and the network; the mirror {registry}: {registry} answered HTTP 404"
        " MANIFEST_UNKNOWN: manifest unknown"
    )
    mirrored('[[registry]]\nlocation = "far.invalid"\nblocked = true\n')
    with pytest.raises(CtrtError, match=r"far\.invalid is blocked by .*registries\.conf"):
        pull(other, "far.invalid/x")


def test_a_mirror_that_breaks_in_the_middle(store: Store, mirrored: Callable[..., None]) -> None:
    mirror, origin = Faulty(), Faulty()
    try:
        for server in (mirror, origin):
            server.image("1", layers=2)

        def gone(request: Request) -> bool:
            request.answer(404)
            return True

        mirror.acts["/blobs/"] = [gone]
        mirrored(
            f'[[registry]]\nprefix = "far.invalid"\nlocation = "{origin.host}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\n'
        )
        assert pull(store, "far.invalid/x:1").layers
        assert any("/manifests/" in path for path, _ in mirror.seen)
        assert not any("/manifests/" in path for path, _ in origin.seen)
    finally:
        mirror.close()
        origin.close()


def test_a_foreign_layer_comes_from_where_it_is(store: Store) -> None:
    server = Faulty()
    try:
        server.image("1", layer_type=KIND)
        kind, body = server.content["/v2/x/manifests/1"]
        value = json.loads(body)
        (layer,) = value["layers"]
        _, data = server.content.pop(f"/v2/x/blobs/{layer['digest']}")
        server.content["/elsewhere/layer"] = ("", data)
        layer["urls"] = ["ftp://no", f"http://{server.host}/elsewhere/layer"]
        server.manifest(json.dumps(value).encode(), kind, "1")
        assert pull(store, f"{server.host}/x:1", plain_http=True).layers
        elsewhere = [headers for path, headers in server.seen if path == "/elsewhere/layer"]
        assert len(elsewhere) == 1
    finally:
        server.close()
