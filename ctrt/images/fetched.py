"""What ADD fetches: one file from an address, or the tree of a git repository.

Both come into a directory of the caller's. git is the program of that name, kept from what could
run anything else: hooks, prompts, and other transports than git, http, https and ssh.

Source: Docker's reference for Dockerfiles, ADD; git-fetch(1).
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ctrt import __version__
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SECONDS = 30
_PIECE_BYTES = 1 << 18


def is_address(text: str) -> bool:
    """Say whether a source of ADD is to be fetched rather than copied."""
    return "://" in text or text.startswith("git@")


def is_repository(address: str) -> bool:
    """Say whether an address is one of a git repository, as Docker tells them apart."""
    place = address.partition("#")[0]
    if place.startswith(("http://", "https://")):
        return place.endswith(".git")
    return place.startswith(("git://", "ssh://", "git@"))


def file(url: str, directory: str, checksum: str | None = None) -> str:
    """Fetch the file at an address into a directory; its name there.

    Its time is what the server says (Last-Modified), if it does. CtrtError if it cannot be had, or
    is not what `checksum` (`sha256:HEX`) names.
    """
    if not url.startswith(("http://", "https://")):
        raise CtrtError(f"{url} is neither http:// nor https://")
    from ctrt.images.web import meant

    parts = meant("", url)
    if not parts.hostname:
        raise CtrtError(f"{url} names no host")
    name = unquote(parts.path).rpartition("/")[2]
    if not name or name in (".", "..") or "\0" in name:
        raise CtrtError(f"{url} ends in no file name")
    hashed = sha256()
    path = os.path.join(directory, name)
    try:
        with open(path, "xb", buffering=0) as to, _opened(url) as answer:
            if answer.status != 200:
                raise CtrtError(f"{url} answers with HTTP {answer.status}")
            for piece in answer.stream(_PIECE_BYTES, decode_content=False):
                hashed.update(piece)
                to.write(piece)
            changed = _time(answer.headers.get("Last-Modified") or "")
    except OSError as error:
        raise CtrtError(f"{url} cannot be written: {error.strerror}") from None
    found = f"sha256:{hashed.hexdigest()}"
    if checksum is not None and found != checksum:
        raise CtrtError(f"{url} has the digest {found}, not {checksum}")
    os.chmod(path, 0o600)
    if changed is not None:
        os.utime(path, (changed, changed))
    return name


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """A GET whose body is streamed; what fails on the way is a CtrtError."""
    import urllib3

    from ctrt.images import certificates
    from ctrt.images.web import proxy_for, reason_of

    parts = urlsplit(url)
    proxy = proxy_for(parts.scheme, parts.hostname or "")
    how: dict[str, Any] = {}
    if parts.scheme == "https":
        how["ssl_context"] = certificates.context(parts.netloc)
    pool = urllib3.ProxyManager(proxy, **how) if proxy else urllib3.PoolManager(**how)
    try:
        with pool.request(
            "GET", url, preload_content=False, retries=urllib3.Retry(2, redirect=5),
            timeout=urllib3.Timeout(_SECONDS), headers={"User-Agent": f"ctrt/{__version__}"},
        ) as answer:  # fmt: skip
            yield answer
    except urllib3.exceptions.HTTPError as error:
        raise CtrtError(f"{url} cannot be fetched: {reason_of(error)}") from None
    finally:
        pool.clear()


def _time(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def repository(address: str, directory: str, checksum: str | None = None) -> str:
    """Fetch a git repository into a directory; the path of its tree, or of a part of it, there.

    `address` is `REPOSITORY[#REFERENCE[:SUBDIRECTORY]]`; without a reference it is what the other
    side has as HEAD. Submodules come along. `checksum` is the commit that it must be. CtrtError
    says what is wrong.
    """
    from shutil import which

    if which("git") is None:
        raise CtrtError(f"{address} is a git repository, and the program git is not installed here")
    place, _, rest = address.partition("#")
    reference, _, below = rest.partition(":")
    if reference.startswith("-"):
        raise CtrtError(f"{address} names no reference of git")
    git = _Git(place, directory)
    git("init", "-q")
    git("fetch", "-q", "--depth=1", "--", place, reference or "HEAD")
    commit = git("rev-parse", "FETCH_HEAD^0")
    if checksum is not None and commit != checksum:
        raise CtrtError(f"{address} is at the commit {commit}, not {checksum}")
    git("checkout", "-q", "--detach", "FETCH_HEAD")
    if os.path.lexists(os.path.join(directory, ".gitmodules")):
        git("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    return below.strip("/")


class _Git:
    """git in one directory, for one address."""

    def __init__(self, address: str, directory: str) -> None:
        self._address = address
        # Where a hook of git runs a build, these point at that repository.
        taken = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
        self._environment = {
            **{key: value for key, value in os.environ.items() if key not in taken},
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
            "LC_ALL": "C",
        }
        self._start = [
            "git", "-C", directory, "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0",
            "-c", "advice.detachedHead=false", "-c", "http.lowSpeedLimit=1",
            "-c", f"http.lowSpeedTime={_SECONDS}",
        ]  # fmt: skip

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._start, *words], capture_output=True, stdin=subprocess.DEVNULL, check=False,
            env=self._environment, umask=0o022,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            said = said or ["git failed"]
            marks = ("ssh:", "fatal:", "error:")
            why = next((line for line in said if line.startswith(marks)), said[-1])
            why = re.sub(r"^(fatal|error): ", "", why)
            raise CtrtError(f"{self._address} cannot be fetched: {why}")
        return done.stdout.decode(errors="replace").strip()
