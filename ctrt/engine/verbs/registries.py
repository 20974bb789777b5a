"""The verbs about registries: pull, push, copy, login, tags and what a name means."""

from __future__ import annotations

from ctrt.engine.options import TLS_VERIFY, Option, Table
from ctrt.engine.verbs.base import MANY, ONE, Listing, Text, Verb, shown
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report
    from ctrt.images.auth import Login
    from ctrt.images.registry import Registry
    from ctrt.images.transports import Options


def options_of(values: Values, side: str = "") -> Options:
    """How registries are spoken to, as the options of a verb (or of one of its sides) say."""
    from ctrt.images.transports import Options

    verify = getattr(values, f"{side}tls_verify")
    if verify is None:
        verify = values.tls_verify
    return Options(
        insecure=verify == "false",
        cert_dir=values.cert_dir or "",
        authfile=values.authfile or "",
        login=_creds(getattr(values, f"{side}creds"), f"--{side.replace('_', '-')}creds"),
    )


def _creds(text: str | None, option: str) -> Login | None:
    from ctrt.images.auth import Login

    if not text:
        return None
    user, colon, password = text.partition(":")
    if not user:
        raise CtrtError(f"{option} names no user; it is USER[:PASSWORD]")
    return Login(user, password if colon else _ask("Password: "), "", option)


def _ask(prompt: str) -> str:
    """Ask a person for a secret; a notebook puts its own question in getpass."""
    import getpass
    import sys

    if getpass.getpass.__module__ == "getpass" and not sys.stdin.isatty():
        raise CtrtError("there is no terminal to ask for the password; give it by --password-stdin")
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise CtrtError("no password was given") from None


def _client(engine: Engine, registry: str, values: Values) -> Registry:
    from ctrt.images.transports import docker
    from ctrt.oci.reference import parse

    reference = parse(f"{registry}/x")
    end = engine.store.registries().endpoints(reference)[-1]
    return docker.client(end.location.registry, options_of(values), insecure=end.insecure)


def _pull(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images.pull import pull

    names = values.operands
    if values.all_tags:
        names = [f"{name}:{tag}" for name in names for tag in _all_tags(engine, name, values)]
    said = []
    for name in names:
        # Whoever names a platform may not mean to run it here.
        image = pull(
            engine.store,
            name,
            platform=values.platform,
            progress=None if values.quiet else report,
            options=options_of(values),
            policy=values.signature_policy or "",
            unpacker=None if values.platform or values.all_tags else engine.unpacker(),
        )
        said.append(image.id[7:] if values.quiet else image.reference)
    return Text("\n".join(said))


def _push(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images import transports
    from ctrt.images.copy import push

    name = values.operands[0]
    image = engine.store.find(name)
    if image is None:
        raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    where = values.operands[1] if len(values.operands) > 1 else image.reference
    if where.startswith("localhost/"):
        raise CtrtError(
            f"{where} names no registry; say where to push it, as in: ctrt push {name}"
            f" REGISTRY/{where.removeprefix('localhost/')}"
        )
    to = transports.destination(where, options_of(values), engine.store.registries())
    digest = push(engine.store, image, to, progress=None if values.quiet else report)
    if values.digestfile is not None:
        try:
            with open(values.digestfile, "w", encoding="ascii") as file:
                file.write(digest)
        except OSError as error:
            raise CtrtError(
                f"push: {values.digestfile} cannot be written: {error.strerror}"
            ) from None
    return Text("" if values.quiet else digest)


def _copy(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images import transports
    from ctrt.images.copy import copy

    config = engine.store.registries()
    first, second = values.operands
    place = transports.source(first, options_of(values, "src_"), config)
    try:
        to = transports.destination(second, options_of(values, "dest_"), config)
    except CtrtError:
        place.close()
        raise
    return Text(
        copy(
            place,
            to,
            platform=values.platform,
            everything=values.all,
            progress=None if values.quiet else report,
            policy=values.signature_policy or "",
        )
    )


def _login(engine: Engine, values: Values, _report: Report) -> Text:
    import sys

    from ctrt.images import auth
    from ctrt.images.transports import docker
    from ctrt.oci.reference import parse

    key = values.operands[0].removeprefix("https://").removeprefix("http://").rstrip("/")
    registry, _, group = key.partition("/")
    parse(f"{key}/x")
    had = auth.lookup(registry, group, authfile=values.authfile or "")
    if values.get_login:
        if had is None:
            raise CtrtError(f"nobody is logged in to {key}; log in with: ctrt login {key}")
        return Text(had.user or had.name)
    user = values.username
    if values.password_stdin:
        if not user:
            raise CtrtError("login: --password-stdin needs --username, too")
        password = sys.stdin.readline().rstrip("\r\n")
    elif values.password is not None:
        if not user:
            raise CtrtError("login: --password needs --username, too")
        password = values.password
    else:
        user = user or (had.user if had else "") or _user(key)
        password = _ask(f"Password of {user} at {key}: ")
    if not password:
        raise CtrtError("login: the password is empty")
    options = options_of(values)
    options.login = auth.Login(user, password, "", "what was just given")
    end = engine.store.registries().endpoints(parse(f"{key}/x"))[-1]
    client = docker.client(end.location.registry, options, insecure=end.insecure)
    try:
        client.check()
    except CtrtError as error:
        if getattr(error, "http_status", 0) in (401, 403):
            raise CtrtError(
                f"login: {registry} refuses the user {user} with this password"
            ) from None
        raise CtrtError(f"login: {error}") from None
    finally:
        client.close()
    path = auth.store(key, options.login, authfile=values.authfile or "")
    return Text(f"logged in to {key} as {user}; written to {path}")


def _user(key: str) -> str:
    try:
        return input(f"User at {key}: ")
    except EOFError:
        raise CtrtError("login: no user was given; give one by --username") from None


def _logout(_engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.images import auth

    if bool(values.operands) == values.all:
        raise CtrtError("logout: expected one REGISTRY, or --all")
    key = values.operands[0].rstrip("/") if values.operands else ""
    had = auth.forget(key, authfile=values.authfile or "")
    if key and not had:
        raise CtrtError(f"nobody is logged in to {key}")
    return Text(f"logged out of {key or 'all registries'}")


def _tags(engine: Engine, values: Values, _report: Report) -> Listing:
    return Listing(("TAG",), [(tag,) for tag in _all_tags(engine, values.operands[0], values)])


def _all_tags(engine: Engine, typed: str, values: Values) -> list[str]:
    """The tags that a repository has, sorted."""
    from ctrt.images.transports import docker, split

    config = engine.store.registries()
    wanted = config.candidates(split(typed)[1])[0].reference
    end = config.endpoints(wanted)[-1]
    client = docker.client(end.location.registry, options_of(values), insecure=end.insecure)
    try:
        return sorted(client.tags(end.location.repository))
    except CtrtError as error:
        raise CtrtError(
            f"cannot list the tags of {wanted.registry}/{wanted.repository}: {error}"
        ) from None
    finally:
        client.close()


def _catalog(engine: Engine, values: Values, _report: Report) -> Listing:
    client = _client(engine, values.operands[0], values)
    try:
        return Listing(("REPOSITORY",), [(name,) for name in sorted(client.catalog())])
    except CtrtError as error:
        raise CtrtError(f"cannot list what {values.operands[0]} has: {error}") from None
    finally:
        client.close()


def _referrers(engine: Engine, values: Values, _report: Report) -> Listing:
    from ctrt.images.transports import docker, split
    from ctrt.words import size_text

    config = engine.store.registries()
    name = config.candidates(split(values.operands[0])[1])[0].reference
    end = config.endpoints(name)[-1]
    client = docker.client(end.location.registry, options_of(values), insecure=end.insecure)
    place = end.location
    try:
        digest = place.digest or client.manifest(place.repository, place.tag or "latest")[1]
        found = client.referrers(place.repository, digest, values.type or "")
    except CtrtError as error:
        raise CtrtError(f"cannot list what refers to {name}: {error}") from None
    finally:
        client.close()
    return Listing(
        ("DIGEST", "TYPE", "SIZE"),
        [(e.digest, e.artifact_type or e.media_type, size_text(e.size)) for e in found],
    )


def _reference(engine: Engine, values: Values, _report: Report) -> Picture | Text:
    from ctrt import draw
    from ctrt.images.transports import split

    config = engine.store.registries()
    typed = split(values.operands[0])[1]
    candidates = config.candidates(typed)
    ends = []
    refused = ""
    try:
        ends = config.endpoints(candidates[0].reference)
    except CtrtError as error:
        refused = str(error)
    picture = draw.reference(typed, candidates, ends, refused=refused, ids=values.ids)
    return shown(picture, values)


_CERT_DIR = Option("--cert-dir", "directory of certificates and keys", metavar="DIRECTORY")
_AUTHFILE = Option("--authfile", "file of credentials instead of the usual ones", metavar="FILE")
_CREDS = Option("--creds", "user and password for the registry", metavar="USER[:PASSWORD]")
POLICY = Option("--signature-policy", "policy.json instead of the host's", metavar="FILE")
PLATFORM = Option("--platform", "which image of several", metavar="OS/ARCH[/VARIANT]")
ACCESS = [TLS_VERIFY, _CERT_DIR, _AUTHFILE, _CREDS]


def _side(side: str, words: str) -> list[Option]:
    return [
        Option(
            f"--{side}-tls-verify",
            f"--tls-verify for the {words}",
            metavar="BOOL",
            choices=("true", "false"),
        ),
        Option(f"--{side}-creds", f"--creds for the {words}", metavar="USER[:PASSWORD]"),
    ]


VERBS = [
    Verb(
        Table(
            "pull",
            "Fetch an image from a registry, or from oci:, oci-archive:, docker-archive:, dir: or"
            " containers-storage:.",
            "IMAGE...",
            [
                PLATFORM,
                Option("-a --all-tags", "every tag of the repository"),
                Option("-q --quiet", "only print the ID"),
                *ACCESS,
                POLICY,
            ],
        ),
        _pull,
        MANY,
    ),
    Verb(
        Table(
            "push",
            "Bring an image to a registry, or to oci:, oci-archive:, docker-archive: or dir:.",
            "IMAGE [DESTINATION]",
            [
                Option("-q --quiet", "print nothing"),
                Option("--digestfile", "write the digest to a file", metavar="FILE"),
                *ACCESS,
            ],
        ),
        _push,
        range(1, 3),
    ),
    Verb(
        Table(
            "copy",
            "Copy an image from one place to another, past the store.",
            "SOURCE DESTINATION",
            [
                Option("-a --all", "all images of an index, with the index"),
                Option("-q --quiet", "show no progress"),
                PLATFORM,
                TLS_VERIFY,
                *_side("src", "source"),
                *_side("dest", "destination"),
                _CERT_DIR,
                _AUTHFILE,
                POLICY,
            ],
        ),
        _copy,
        range(2, 3),
    ),
    Verb(
        Table(
            "login",
            "Check user and password at a registry, and write them down.",
            "REGISTRY[/GROUP...]",
            [
                Option("-u --username", "the user", metavar="USER"),
                Option("-p --password", "the password; others may see it", metavar="PASSWORD"),
                Option("--password-stdin", "read the password from the standard input"),
                Option("--get-login", "only say who is logged in"),
                *ACCESS,
            ],
        ),
        _login,
        ONE,
    ),
    Verb(
        Table(
            "logout",
            "Forget user and password of a registry.",
            "REGISTRY[/GROUP...]",
            [Option("-a --all", "of all registries"), _AUTHFILE],
        ),
        _logout,
        range(2),
    ),
    Verb(Table("tags", "List the tags of a repository.", "REPOSITORY", ACCESS), _tags, ONE),
    Verb(
        Table("catalog", "List the repositories of a registry.", "REGISTRY", ACCESS),
        _catalog,
        ONE,
    ),
    Verb(
        Table(
            "referrers",
            "List what refers to an image: signatures, attestations, lists of contents.",
            "IMAGE",
            [Option("--type", "only this type of artifact", metavar="TYPE"), *ACCESS],
        ),
        _referrers,
        ONE,
    ),
    Verb(
        Table(
            "reference",
            "Draw what a name means: registry, repository, tag, and where it is fetched from.",
            "NAME",
            [
                Option("--ids", "show the paths of configuration files"),
                Option("--svg", "write an SVG file", metavar="FILE"),
                Option("--json", "as JSON"),
            ],
        ),
        _reference,
        ONE,
    ),
]
