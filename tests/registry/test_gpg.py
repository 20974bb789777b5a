"""Images that skopeo signed by GPG: the signatures beside a registry, and in a directory."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run

from ctrt.errors import CtrtError
from ctrt.images.pull import pull
from ctrt.images.store import Store


class Keys:
    """A home of gpg with keys, and their public halves as files."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.fingerprints: dict[str, str] = {}

    def gpg(self, *words: str) -> str:
        return run("gpg", "--homedir", self.home, "--batch", "--no-tty", "-q", *words)

    def make(self, name: str) -> None:
        self.gpg("--passphrase", "", "--quick-gen-key", f"{name}@example.com", "ed25519", "sign")
        listed = self.gpg("--with-colons", "-k", f"{name}@example.com")
        self.fingerprints[name] = next(
            line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:")
        )
        armoured = self.gpg("--armor", "--export", f"{name}@example.com")
        Path(self.home, f"{name}.asc").write_text(armoured)
        self.gpg("-o", f"{self.home}/{name}.gpg", "--export", f"{name}@example.com")


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    for program in ("gpg", "gpgv", "gpg-agent", "skopeo"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    home = tempfile.mkdtemp(prefix="ctrt-k-")  # the path of the agent's socket must be short
    made = Keys(home)
    for name in ("one", "two", "late"):
        made.make(name)
    yield made
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def host(start_registry: Callable[..., str]) -> str:
    return start_registry()


@pytest.fixture
def lookaside(tmp_path: Path) -> Path:
    """A directory for signatures that the user's registries.d names."""
    place = tmp_path / "lookaside"
    config = tmp_path / ".config/containers/registries.d"
    config.mkdir(parents=True)
    (config / "a.yaml").write_text("docker:\n  127.0.0.1:1:\n    sigstore: file:///nowhere\n")
    (config / "b.yaml").write_text(f"default-docker:\n  sigstore: file://{place}\n")
    return place


def sign(keys: Keys, layout: str, tmp_path: Path, to: str, key: str = "one", **more: str) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
    run("env", f"GNUPGHOME={keys.home}", "skopeo", "--insecure-policy", "--registries.d",
        f"{tmp_path}/.config/containers/registries.d", "copy", "-q", "--dest-tls-verify=false",
        "--sign-by", keys.fingerprints[key], *flags, f"oci:{layout}:latest", to)  # fmt: skip


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., str]:
    def write(keys: Keys, *names: str, **more: Any) -> str:
        path = tmp_path / ".config/containers/policy.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        need = {"type": "signedBy", "keyType": "GPGKeys", **more}
        if names:
            need |= {"keyPaths": [f"{keys.home}/{name}" for name in names]}
        path.write_text(json.dumps({"default": [need]}))
        return str(path)

    return write


def why(store: Store, name: str) -> str:
    with pytest.raises(CtrtError) as caught:
        pull(store, name)
    assert not os.path.isdir(store.path("blobs/sha256")) or not os.listdir(
        store.path("blobs/sha256")
    ), "nothing is fetched before it is allowed"
    return str(caught.value)


def test_what_skopeo_signed_comes_in(
    store: Store, keys: Keys, layout: str, host: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    name = f"{host}/group/signed:1"
    path = policy(keys, "one.asc")
    run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
        f"oci:{layout}:latest",
        f"docker://{name}")  # fmt: skip
    assert f"{path} wants a signature for the default, and it has none" in why(store, name)
    sign(keys, layout, tmp_path, f"docker://{name}", "two")
    assert why(store, name).endswith(
        "none of its 1 will do: it is not made with a key that the policy names"
    )
    (file,) = lookaside.rglob("signature-1")
    of_two = file.read_bytes()
    sign(keys, layout, tmp_path, f"docker://{name}", "one")
    file.rename(file.with_name("signature-2"))
    file.write_bytes(of_two)
    assert pull(store, name).layers
    # As a file without armour, and in the policy itself.
    policy(keys, "two.gpg")
    assert pull(Store(store.root + "2"), name).layers
    data = base64.b64encode(Path(keys.home, "one.gpg").read_bytes()).decode()
    policy(keys, keyData=data)
    assert pull(Store(store.root + "3"), name).layers


def test_whom_it_is_for(
    store: Store, keys: Keys, layout: str, host: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    name = f"{host}/group/other:1"
    sign(keys, layout, tmp_path, f"docker://{name}", sign_identity="example.com/x/y:1")
    policy(keys, "one.asc")
    assert why(store, name).endswith("it vouches for another name (example.com/x/y:1)")
    policy(keys, "one.asc", signedIdentity={"type": "exactReference",
                                            "dockerReference": "example.com/x/y:1"})  # fmt: skip
    assert pull(store, name).layers


def test_what_was_changed_does_not_come_in(
    store: Store, keys: Keys, layout: str, host: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    name = f"{host}/group/changed:1"
    sign(keys, layout, tmp_path, f"docker://{name}")
    (file,) = lookaside.rglob("signature-1")
    good = file.read_bytes()
    policy(keys, "one.asc")
    said = json.dumps({
        "critical": {
            "type": "atomic container signature", "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": "sha256:" + "0" * 64},
        },
    })  # fmt: skip
    (tmp_path / "said").write_text(said)
    keys.gpg(
        "-u", keys.fingerprints["one"], "-o", f"{tmp_path}/moved", "--sign", f"{tmp_path}/said"
    )
    keys.gpg("-o", f"{tmp_path}/plain", "--store", f"{tmp_path}/said")
    # In a compressed message a changed byte may break the packing before the signature is reached.
    keys.gpg(
        "-u", keys.fingerprints["one"], "-o", f"{tmp_path}/open", "--compress-algo", "none",
        "--sign", f"{tmp_path}/said",
    )  # fmt: skip
    readable = Path(tmp_path, "open").read_bytes()
    assert readable.count(b"sha256:0") == 1
    for data, sentence in [
        (readable.replace(b"sha256:0", b"sha256:1"), "it is broken"),
        (good[: len(good) // 2], "it is no GPG signature"),
        (b"no signature at all", "it is no GPG signature"),
        (b"", "it is no GPG signature"),
        (Path(tmp_path, "plain").read_bytes(), "it is no GPG signature"),
        (Path(tmp_path, "moved").read_bytes(), "it vouches for another manifest (sha256:"),
    ]:
        file.write_bytes(data)
        assert f"none of its 1 will do: {sentence}" in why(store, name), sentence
    with open(file, "wb") as large:
        large.truncate(5 << 20)
    assert why(store, name).endswith("has more than 4 MiB")


def test_a_key_that_has_expired(
    store: Store, keys: Keys, layout: str, host: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    name = f"{host}/group/late:1"
    sign(keys, layout, tmp_path, f"docker://{name}", "late")
    policy(keys, "late.asc")
    assert pull(Store(store.root + "before"), name).layers
    keys.gpg("--passphrase", "", "--quick-set-expire", keys.fingerprints["late"], "seconds=1")
    Path(keys.home, "late.asc").write_text(keys.gpg("--armor", "--export", "late@example.com"))
    for _ in range(100):
        if "pub:e" in keys.gpg("--with-colons", "-k", "late@example.com"):
            break
        threading.Event().wait(0.05)
    assert why(store, name).endswith("its key has expired")


def test_over_http(
    store: Store, keys: Keys, layout: str, host: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    name = f"{host}/group/http:1"
    sign(keys, layout, tmp_path, f"docker://{name}")
    policy(keys, "one.asc")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    serve = functools.partial(Quiet, directory=str(lookaside))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = tmp_path / ".config/containers/registries.d/c.yaml"
        place.write_text(
            f"docker:\n  {host}/group:\n    lookaside: http://127.0.0.1:{server.server_port}\n"
        )
        assert pull(store, name).layers
        server.shutdown()
    other = Store(store.root + "other")
    assert "/signature-1 cannot be fetched: " in why(other, name)
    place.write_text("docker: {x: {lookaside: ftp://x}}")
    assert "c.yaml is broken at docker.x.lookaside: it must be an address" in why(other, name)
    place.write_text("default-docker: {}")
    assert "c.yaml has default-docker, and so has another file" in why(other, name)
    place.write_text("docker: [")
    assert why(other, name).endswith("c.yaml is not YAML")


def test_a_directory(
    store: Store, keys: Keys, layout: str, tmp_path: Path, lookaside: Path,
    policy: Callable[..., str],
) -> None:  # fmt: skip
    sign(keys, layout, tmp_path, f"dir:{tmp_path}/d", sign_identity="example.com/x:1")
    policy(keys, "one.asc", signedIdentity={"type": "exactRepository",
                                            "dockerRepository": "example.com/x"})  # fmt: skip
    assert pull(store, f"dir:{tmp_path}/d").layers
    os.unlink(tmp_path / "d/signature-1")
    assert "and it has none" in why(Store(store.root + "2"), f"dir:{tmp_path}/d")


def test_a_key_that_is_none(
    store: Store, keys: Keys, host: str, layout: str, policy: Callable[..., str]
) -> None:
    name = f"{host}/group/signed:1"
    run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
        f"oci:{layout}:latest",
        f"docker://{name}")  # fmt: skip
    Path(keys.home, "broken.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n?\n")
    policy(keys, "broken.asc")
    assert why(store, name).endswith("broken.asc is no public key of GPG")
