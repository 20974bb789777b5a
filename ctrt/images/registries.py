"""What the host's registries.conf says: short names, mirrors, blocked and insecure registries.

    rhel7  ->  registry.access.redhat.com/rhel7:latest

A short name has an alias, or is looked for in the registries of the search list, or is Docker
Hub's where the host says nothing. A full name may have mirrors, be stored under another
location, or be blocked. Both answers are pure functions of a `Config`.

Source: containers-registries.conf(5) (format version 2) and containers-registries.conf.d(5).
One file is read: `$CONTAINERS_REGISTRIES_CONF` alone, or the user's, or the host's; to the
latter two the drop-in directories of both are added, later ones over earlier ones.

The store asks this for every short name, on the path of a container's start, so nothing heavy
is imported unless a file has changed: what was read is kept in the store's cache.
"""

from __future__ import annotations

import os

from ctrt.errors import CtrtError
from ctrt.oci import fastjson
from ctrt.oci.reference import Reference, is_short, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MODES = ("enforcing", "permissive", "disabled")
_PULLS = ("all", "digest-only", "tag-only")


class Candidate:
    """One thing that a name may mean, and where that is said.

    `origin` is "given", "alias", "search" or "default"; `file` the configuration's
    path, empty where none was asked.
    """

    __slots__ = ("file", "origin", "reference")

    def __init__(self, reference: Reference, origin: str, file: str = "") -> None:
        self.reference = reference
        self.origin = origin
        self.file = file

    def __repr__(self) -> str:
        return f"Candidate({str(self.reference)!r}, {self.origin!r})"


class Endpoint:
    """A place that an image is fetched from: `location` is where it really is.

    `insecure` allows plain HTTP and certificates of unknown authorities.
    """

    __slots__ = ("insecure", "location", "mirror")

    def __init__(self, location: Reference, insecure: bool, mirror: bool) -> None:
        self.location = location
        self.insecure = insecure
        self.mirror = mirror

    def __repr__(self) -> str:
        return f"Endpoint({str(self.location)!r}, insecure={self.insecure}, mirror={self.mirror})"


class Config:
    """The merged configuration; plain values, so that it can be kept as JSON.

    `search` are the registries for short names, `aliases` their fixed meanings with the file
    that says so, `registries` the `[[registry]]` tables, `mode` the short-name mode.
    """

    __slots__ = ("aliases", "mode", "registries", "search", "search_file")

    def __init__(self) -> None:
        self.search: list[str] = []
        self.search_file = ""
        self.aliases: dict[str, list[str]] = {}
        self.registries: list[dict[str, Any]] = []
        self.mode = "permissive"

    def candidates(self, text: str) -> list[Candidate]:
        """Return what a name may mean, the best first; never empty.

        With several registries to search and the mode "enforcing", podman asks its user;
        here that is a CtrtError that lists the full names to choose from.
        """
        asked = parse(text)
        if not is_short(text):
            return [Candidate(asked, "given")]
        name = text.partition("@")[0]
        colon = name.find(":", name.rfind("/") + 1)
        name, tail = (name[:colon], text[colon:]) if colon >= 0 else (name, text[len(name) :])
        alias = self.aliases.get(name)
        if alias is not None:
            return [Candidate(parse(alias[0] + tail), "alias", alias[1])]
        if not self.search:
            return [Candidate(asked, "default")]
        found = [
            Candidate(parse(f"{place}/{text}"), "search", self.search_file) for place in self.search
        ]
        if len(found) > 1 and self.mode == "enforcing":
            names = ", ".join(str(candidate.reference) for candidate in found)
            raise CtrtError(
                f"the short name {text} is ambiguous and {self.search_file} has the mode"
                f' "enforcing"; give one of {names}'
            )
        return found

    def local(self, text: str) -> list[Reference]:
        """Return what a short name may mean among the images that are here, but localhost's."""
        if self.aliases.get(text.partition("@")[0].partition(":")[0]) or not self.search:
            return [candidate.reference for candidate in self.candidates(text)]
        return [parse(f"{place}/{text}") for place in self.search]

    def endpoints(self, reference: Reference) -> list[Endpoint]:
        """Return where to fetch an image from, mirrors first; CtrtError if it is blocked."""
        table, length = self._table(reference)
        if table is None:
            return [Endpoint(reference, False, False)]
        if table["blocked"]:
            raise CtrtError(
                f"the registry {table['prefix']} is blocked by {table['file']} (blocked = true)"
            )
        found = []
        for mirror in table["mirrors"]:
            which = mirror["pull"]
            if (which == "digest-only" and not reference.digest) or (
                which == "tag-only" and reference.digest
            ):
                continue
            place = _moved(reference, length, mirror["location"])
            found.append(Endpoint(place, mirror["insecure"], True))
        place = _moved(reference, length, table["location"]) if table["location"] else reference
        return [*found, Endpoint(place, table["insecure"], False)]

    def _table(self, reference: Reference) -> tuple[dict[str, Any] | None, int]:
        """Return the table with the longest prefix that fits, and how much of the name it is."""
        name = f"{reference.registry}/{reference.repository}"
        full = str(reference)
        best: dict[str, Any] | None = None
        rank = length = 0
        for table in self.registries:
            prefix = table["prefix"]
            if prefix.startswith("*."):
                host, slash, rest = prefix[1:].partition("/")
                if not reference.registry.endswith(host):
                    continue
                fits = len(reference.registry) + len(slash) + len(rest)
                if slash and not _begins(name, f"{reference.registry}/{rest}"):
                    continue
            else:
                fits = len(prefix)
                if not _begins(full, prefix):
                    continue
            if len(prefix) > rank:
                best, rank, length = table, len(prefix), fits
        return best, length

    def dump(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


_last: tuple[list[Any], Config] = ([], Config())
"""What this process has read last, and of which files."""


def load(cache: str = "") -> Config:
    """Read the host's configuration; CtrtError names the file and the place that is wrong.

    `cache` is a file to keep what was read; it is used while no file of the configuration
    has changed.
    """
    global _last
    files = _files()
    config = Config()
    if not files:
        return config
    stamp = [[path, *_stamp(path)] for path in files]
    if _last[0] == stamp:
        return _last[1]
    if cache:
        try:
            with open(cache, "rb") as file:
                kept = fastjson.loads(file.read())
            if kept["stamp"] == stamp:
                for name, value in kept["config"].items():
                    setattr(config, name, value)
                _last = (stamp, config)
                return config
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
    for path in files:
        _merge(config, path)
    if cache:
        _keep(cache, fastjson.dumps({"stamp": stamp, "config": config.dump()}))
    _last = (stamp, config)
    return config


def _files() -> list[str]:
    alone = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    if alone is not None:
        return [alone] if alone and os.path.exists(alone) else []
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    user = f"{home}/containers/registries.conf"
    found = []
    for path in (user, "/etc/containers/registries.conf", "/usr/share/containers/registries.conf"):
        if os.path.exists(path):
            found.append(path)
            break
    for directory in ("/etc/containers/registries.conf.d", f"{user}.d"):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        found += [f"{directory}/{name}" for name in names if name.endswith(".conf")]
    # What podman's users chose when they were asked (short-name-aliases.conf).
    if os.geteuid() == 0:
        chosen = "/var/cache/containers/short-name-aliases.conf"
    else:
        place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = f"{place}/containers/short-name-aliases.conf"
    return found + ([chosen] if os.path.exists(chosen) else [])


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _keep(path: str, text: str) -> None:
    aside = f"{path}.{os.urandom(4).hex()}"
    try:
        with open(aside, "x", encoding="ascii") as file:
            file.write(text)
        os.rename(aside, path)
    except OSError:
        pass  # the store is not there yet, or somebody else's: the files are read again


def _merge(config: Config, path: str) -> None:
    import tomllib

    try:
        with open(path, "rb") as file:
            said = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CtrtError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
    if isinstance(said.get("registries"), dict):
        raise CtrtError(
            f"{path} is in the old format ([registries.search]); write"
            ' unqualified-search-registries = ["..."] instead'
        )
    search = _take(said, "unqualified-search-registries", list, path)
    if search is not None:
        for number, place in enumerate(search):
            _check(isinstance(place, str), path, f"unqualified-search-registries[{number}]")
            _named(f"{place}/x", path, f"unqualified-search-registries[{number}]")
        config.search, config.search_file = search, path
    mode = _take(said, "short-name-mode", str, path)
    if mode:
        if mode not in _MODES:
            raise CtrtError(f'{path}: short-name-mode is one of {", ".join(_MODES)}, not "{mode}"')
        config.mode = mode
    for name, meaning in (_take(said, "aliases", dict, path) or {}).items():
        _check(isinstance(meaning, str), path, f"aliases.{name}")
        if not meaning:
            config.aliases.pop(name, None)
            continue
        _named(meaning, path, f"aliases.{name}")
        config.aliases[name] = [meaning, path]
    for number, table in enumerate(_take(said, "registry", list, path) or []):
        where = f"registry[{number}]"
        _check(isinstance(table, dict), path, where)
        made = _registry(table, path, where)
        config.registries = [t for t in config.registries if t["prefix"] != made["prefix"]]
        config.registries.append(made)


def _registry(table: dict[str, Any], path: str, where: str) -> dict[str, Any]:
    location = (_take(table, "location", str, path, where) or "").rstrip("/")
    prefix = (_take(table, "prefix", str, path, where) or location).rstrip("/")
    if not prefix:
        raise CtrtError(f"{path}: {where} has neither prefix nor location")
    if prefix.startswith("*.") and location:
        raise CtrtError(f"{path}: {where} has a wildcard as its prefix, so it can have no location")
    only = _take(table, "mirror-by-digest-only", bool, path, where) or False
    mirrors = []
    for number, mirror in enumerate(_take(table, "mirror", list, path, where) or []):
        here = f"{where}.mirror[{number}]"
        _check(isinstance(mirror, dict), path, here)
        place = (_take(mirror, "location", str, path, here) or "").rstrip("/")
        if not place:
            raise CtrtError(f"{path}: {here} has no location")
        pull = _take(mirror, "pull-from-mirror", str, path, here) or "all"
        if pull not in _PULLS:
            raise CtrtError(
                f'{path}: {here}.pull-from-mirror is one of {", ".join(_PULLS)}, not "{pull}"'
            )
        _named(f"{place}/x", path, f"{here}.location")
        mirrors.append(
            {
                "location": place,
                "insecure": _take(mirror, "insecure", bool, path, here) or False,
                "pull": "digest-only" if only else pull,
            }
        )
    if location:
        _named(f"{location}/x", path, f"{where}.location")
    return {
        "prefix": prefix,
        "location": location,
        "insecure": _take(table, "insecure", bool, path, where) or False,
        "blocked": _take(table, "blocked", bool, path, where) or False,
        "mirrors": mirrors,
        "file": path,
    }


def _take(table: dict[str, Any], key: str, kind: type, path: str, where: str = "") -> Any:
    value = table.get(key)
    if value is not None:
        _check(isinstance(value, kind), path, f"{where}.{key}".lstrip("."), kind)
    return value


_WORDS = {str: "a text", list: "a list", dict: "a table", bool: "true or false"}


def _check(right: bool, path: str, where: str, kind: type = str) -> None:
    if not right:
        raise CtrtError(f"{path}: {where} must be {_WORDS.get(kind, 'a table')}")


def _named(name: str, path: str, where: str) -> None:
    if is_short(name):
        raise CtrtError(
            f'{path}: {where} names no registry ("{name.removesuffix("/x")}"); write it as'
            " HOST[:PORT][/GROUP...]"
        )
    try:
        parse(name)
    except CtrtError as error:
        raise CtrtError(f"{path}: {where}: {error}") from None


def _begins(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@")


def _moved(reference: Reference, length: int, location: str) -> Reference:
    """Put a location in place of the first part of a name."""
    return parse(location + str(reference)[length:])
