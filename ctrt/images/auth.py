"""Credentials for registries: where they are, how they get there, and out again.

The first file that knows a registry decides. In a file the most specific entry wins
(`host/group/repository`, `host/group`, `host`), and a credential helper, a program
`docker-credential-NAME`, may keep the secret instead.

Source: containers-auth.json(5); docker-login(1), "Credential helpers" (`credsStore`,
`credHelpers`) and docker-credential-helpers' protocol: one word as argument, one text in, one
JSON document out.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.oci import fastjson
from ctrt.oci.reference import HUB

if TYPE_CHECKING:
    from typing import Any

HELPER_SECONDS = 60
_HUB_KEY = "https://index.docker.io/v1/"


class Login:
    """Who we are at a registry: user and password, or an identity token in their stead.

    `origin` says where that is written, for the error of a registry that refuses it.
    """

    __slots__ = ("origin", "password", "token", "user")

    def __init__(self, user: str, password: str, token: str = "", origin: str = "") -> None:
        self.user = user
        self.password = password
        self.token = token
        self.origin = origin

    @property
    def name(self) -> str:
        """Whom an error names."""
        return "the identity token" if self.token else f"the user {self.user}"

    def basic(self) -> str:
        """Return the header Authorization (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def files(authfile: str = "") -> list[str]:
    """Return the auth files in the order that they are asked; the first one is written to."""
    explicit = authfile or os.environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        return [explicit]
    home = os.path.expanduser("~")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    docker = os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    return [
        os.path.join(run, "containers", "auth.json"),
        os.path.join(config, "containers", "auth.json"),
        os.path.join(docker, "config.json"),
    ]


def lookup(host: str, repository: str = "", *, authfile: str = "") -> Login | None:
    """Return the credentials for a repository, from the first file that has them."""
    keys = _keys(host, repository)
    for path in files(authfile):
        said = _load(path)
        try:
            helpers = said.get("credHelpers") or {}
            for key in keys:
                if key in helpers:
                    found = _ask_helper(helpers[key], host, path)
                    if found:
                        return found
            auths = said.get("auths") or {}
            for key in keys:
                if key in auths:
                    found = _login(auths[key], path)
                    if found:
                        return found
            if said.get("credsStore"):
                found = _ask_helper(said["credsStore"], host, path)
                if found:
                    return found
        except (ValueError, AttributeError, TypeError, binascii.Error) as error:
            raise CtrtError(f"the credentials in {path} cannot be read ({error})") from None
    return None


def store(key: str, login: Login, *, authfile: str = "") -> str:
    """Write credentials down for `host[/group...]`; return the file or helper that has them."""
    path = files(authfile)[0]
    said = _load(path)
    helper = (said.get("credHelpers") or {}).get(key) or said.get("credsStore")
    if helper and "/" not in key:
        secret = {"ServerURL": _url(key), "Username": login.user, "Secret": login.password}
        _run_helper(helper, "store", json.dumps(secret), path)
        return f"docker-credential-{helper}"
    text = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    said.setdefault("auths", {})[_HUB_KEY if key == HUB and _is_docker(path) else key] = {
        "auth": text
    }
    _save(path, said)
    return path


def forget(key: str, *, authfile: str = "") -> list[str]:
    """Take credentials out of every file that has them (all with an empty `key`).

    Returns the files and helpers that had some.
    """
    had = []
    for path in files(authfile):
        said = _load(path)
        auths = said.get("auths") or {}
        gone = [name for name in auths if not key or name in _own_keys(key)]
        for name in gone:
            del auths[name]
        if gone:
            _save(path, said)
            had.append(path)
        helpers = dict(said.get("credHelpers") or {})
        if said.get("credsStore") and key:
            helpers.setdefault(key, said["credsStore"])
        for name, helper in helpers.items():
            if (not key or name == key) and _ask_helper(helper, name, path):
                _run_helper(helper, "erase", _url(name), path)
                had.append(f"docker-credential-{helper}")
    return had


def _keys(host: str, repository: str) -> list[str]:
    parts = [host, *(repository.split("/") if repository else ())]
    keys = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return keys + [key for key in _own_keys(host) if key != host]


def _own_keys(host: str) -> list[str]:
    """The spellings of one registry; Docker's Hub has a few more."""
    hub = [_HUB_KEY, "index.docker.io", "registry-1.docker.io"] if host == HUB else []
    urls = [f"https://{host}", f"http://{host}", f"https://{host}/v2/", f"https://{host}/v1/"]
    return [host, *hub, *urls]


def _url(host: str) -> str:
    return _HUB_KEY if host == HUB else host


def _is_docker(path: str) -> bool:
    return os.path.basename(path) == "config.json"


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read()
        said = fastjson.loads(text) if text.strip() else {}
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        return said
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CtrtError(f"the credentials in {path} cannot be read ({why})") from None


def _login(entry: dict[str, str], path: str) -> Login | None:
    user = password = ""
    if entry.get("auth"):
        user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
        password = password.rstrip("\0")
        if not colon:
            raise ValueError("auth is not USER:PASSWORD in base64")
    elif entry.get("username"):
        user, password = entry["username"], entry.get("password", "")
    token = entry.get("identitytoken") or ""
    return Login(user, password, token, path) if user or token else None


def _ask_helper(helper: str, host: str, path: str) -> Login | None:
    said = _run_helper(helper, "get", _url(host), path)
    if said is None:
        return None
    try:
        found = fastjson.loads(said)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, KeyError, TypeError):
        raise CtrtError(
            f"the credential helper docker-credential-{helper} of {path} did not answer with"
            " user name and secret"
        ) from None
    origin = f"docker-credential-{helper} (named in {path})"
    if user == "<token>":
        return Login("", "", secret, origin)
    return Login(user, secret, "", origin)


def _run_helper(helper: str, word: str, text: str, path: str) -> str | None:
    """Run a helper; None when it says that it does not know the registry."""
    import subprocess

    program = f"docker-credential-{helper}"
    if not helper.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise CtrtError(f"the credentials in {path} name a helper that can be none: {helper!r}")
    try:
        done = subprocess.run(
            [program, word],
            input=text,
            capture_output=True,
            text=True,
            timeout=HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise CtrtError(
            f"{path} wants the credential helper {program}, which is not installed"
        ) from None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise CtrtError(f"the credential helper {program} of {path} failed: {error}") from None
    if done.returncode == 0:
        return done.stdout
    said = (done.stdout.strip() or done.stderr.strip()).replace("\n", " ")[:200]
    if word == "get" and ("not found" in said or "no credentials" in said.lower()):
        return None
    raise CtrtError(
        f"the credential helper {program} of {path} failed: {said or 'no reason given'}"
    )


def _save(path: str, said: dict[str, Any]) -> None:
    path = os.path.realpath(path)  # a link to where somebody keeps such files stays one
    if os.path.exists(path) and not os.path.isfile(path):
        raise CtrtError(f"the credentials cannot be written to {path}, which is no file")
    aside = f"{path}.{os.urandom(4).hex()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(said, file, indent="\t")
        os.rename(aside, path)
    except OSError as error:
        raise CtrtError(f"the credentials cannot be written to {path}: {error.strerror}") from None
