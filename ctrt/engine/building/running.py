"""RUN: a container of ours, what is lent to it, and what it wrote as a layer."""

from __future__ import annotations

import os
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrt.engine.building.copying import source_of
from ctrt.engine.building.state import copied
from ctrt.engine.container import ContainerError
from ctrt.engine.entrusted import Relay
from ctrt.errors import CtrtError
from ctrt.images import compose, difference
from ctrt.images import context as sources
from ctrt.images.containerfile import Instruction, mistake
from ctrt.images.store import Image
from ctrt.oci import media

if TYPE_CHECKING:
    from ctrt.engine import Engine
    from ctrt.engine.building.stages import Builder
    from ctrt.engine.building.state import State
    from ctrt.engine.options import Values

NETWORKS = ("default", "none", "host")
# What Docker's reference calls predefined: --build-arg gives them without an ARG, to RUN alone.
PROXIES = frozenset(
    name for word in ("HTTP", "HTTPS", "FTP", "NO", "ALL")
    for name in (f"{word}_PROXY", f"{word}_PROXY".lower())
)  # fmt: skip
_MOUNTS = {
    "bind": {"source", "from", "rw", "ro", "readonly"},
    "cache": {"id", "source", "from", "sharing", "mode", "uid", "gid", "rw", "ro", "readonly"},
    "tmpfs": {"size"},
    "secret": {"id", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "required", "mode", "uid", "gid"},
}
_SHORT = {"src": "source", "dst": "target", "destination": "target", "readwrite": "rw"}


class Mount(NamedTuple):
    """A --mount of RUN: what is shown, where, and the rest that was said."""

    kind: str
    target: str
    name: str
    source: sources.Source | None
    path: str
    said: dict[str, str]


def run(builder: Builder, step: Instruction, state: State, at: int) -> None:
    """RUN: a command, whose changes become a layer."""
    words = step.words()
    if words is None:
        text = step.text
        if step.heredocs and text.lstrip().startswith("<<") and len(text.split()) == 1:
            body = step.heredocs[0].text
            text = body
            if body.startswith("#!"):
                # What the first line names reads the rest.
                program = body[2:].partition("\n")[0].strip()
                text = f"{program} /dev/stdin <<'CTRT-END-OF-SCRIPT'\n{body}CTRT-END-OF-SCRIPT"
        else:
            for doc in step.heredocs:
                text += f"\n{doc.text}{doc.name}"
        words = [*(state.process.get("Shell") or ["/bin/sh", "-c"]), text]
    known = state.environment()
    extra = {key: value for key, value in state.arguments.items() if key not in known}
    _network(builder, step)
    if step.flag("security") not in (None, "sandbox"):
        raise mistake(
            builder.where, step.line,
            "--security=insecure is not supported: RUN has the rights of ctrt run",
        )  # fmt: skip
    pieces = [f"{key}={value}" for key, value in sorted(extra.items())]
    mounts = [
        _mount(builder, step, builder.expand(value, state.values(), step.line), at)
        for key, value in step.flags
        if key == "mount"
    ]
    for mount in mounts:
        source, path = mount.source, mount.path
        if source is not None and mount.kind == "bind":
            pieces += [f"{p} {source.print_of(p)}" for p in source.walk(path) if source.kind(p)]
    command = list(words)
    bodies = "".join(doc.text for doc in step.heredocs)
    shown = step.source()
    builder.layer(
        state, shown, (*command, bodies, *pieces),
        lambda: _execute(builder, step, state, command, extra, mounts),
    )  # fmt: skip


def options_of(text: str) -> dict[str, str]:
    """`KEY=VALUE,KEY,...` as a mapping."""
    return {key: value for key, _, value in (part.partition("=") for part in text.split(","))}


def caches(engine: Engine) -> str:
    """Where the caches of `RUN --mount=type=cache` are."""
    return os.path.join(engine.root, "cache", "mounts")


def prune_caches(engine: Engine) -> None:
    """Remove the caches of `RUN --mount=type=cache` that no build uses just now."""
    import fcntl

    from ctrt.images import layers

    spawn = engine.unpacker().spawn
    above = caches(engine)
    try:
        names = {name.removesuffix(".lock") for name in os.listdir(above)}
    except FileNotFoundError:
        return
    for name in names:
        lock = os.open(f"{above}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file of the lock stays: another build may be waiting for it.
            (spawn or layers.run_here)(layers.program("remove", f"{above}/{name}"))
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def upper_of(engine: Engine, config: dict[str, Any], path: str, image: Image) -> difference.Upper:
    """How to read what a container of this configuration wrote."""
    host = engine.host
    mounts = [entry["destination"] for entry in config.get("mounts", ())]
    lowers = engine.lowers(image)
    if not host.privileged:
        return difference.Upper(path, lowers, mounts=mounts, spawn=engine.run_mapped)
    uids, gids = host.id_maps() if host.idmapped_overlay else ((), ())
    return difference.Upper(path, lowers, mounts=mounts, uids=uids, gids=gids)


def _network(builder: Builder, step: Instruction) -> str:
    """The network of a RUN: "none", or "host"."""
    said = step.flag("network") or "default"
    if said not in NETWORKS:
        raise mistake(
            builder.where, step.line,
            f"--network is one of {', '.join(NETWORKS)}, not {said!r}",
        )  # fmt: skip
    return builder.network if said == "default" else said


def _mount(builder: Builder, step: Instruction, text: str, at: int) -> Mount:
    """Read a --mount of RUN."""
    said = options_of(text)
    kind = said.pop("type", "bind")
    if kind not in _MOUNTS:
        raise mistake(
            builder.where, step.line,
            f"--mount: there is no type {kind}; there are {', '.join(_MOUNTS)}",
        )  # fmt: skip
    for short, long in _SHORT.items():
        if short in said:
            said[long] = said.pop(short)
    unknown = sorted(set(said) - _MOUNTS[kind] - {"target"})
    if unknown:
        raise mistake(builder.where, step.line, f"--mount: type={kind} has no option {unknown[0]}")
    for key in ("uid", "gid", "mode"):
        number = said.get(key, "0")
        if not number.isdecimal() or (key == "mode" and number.strip("01234567")):
            raise mistake(builder.where, step.line, f"--mount: {key}={number} is no number")
    name = said.get("id") or ("default" if kind == "ssh" else "")
    target = said.get("target", "")
    if kind == "secret":
        name = name or target.rpartition("/")[2]
        if not name:
            raise mistake(builder.where, step.line, "--mount: type=secret needs an id=")
        if not target and "env" not in said:
            target = f"/run/secrets/{name}"
    elif kind == "ssh":
        target = target or f"/run/ssh-agent/{name}"
    elif not target:
        raise mistake(builder.where, step.line, "--mount: target= is missing")
    required = said.get("required", "false") not in ("false", "", "0")
    if required and name not in (builder.secrets if kind == "secret" else builder.agents):
        raise mistake(
            builder.where, step.line,
            f"--mount: no {kind} {name} was given; see: ctrt build --help",
        )  # fmt: skip
    source: sources.Source | None = None
    path = sources.tidy(said.get("source", ""))
    if kind == "bind" or (kind == "cache" and "from" in said):
        source = source_of(builder, step, said.get("from"), at)
        if not source.kind(path):
            raise mistake(builder.where, step.line, f"--mount: {source.what} has no /{path}")
    return Mount(
        kind, f"/{sources.tidy(target)}" if target else "", name, source, path, said
    )  # fmt: skip


def _execute(
    builder: Builder,
    step: Instruction,
    state: State,
    command: list[str],
    extra: dict[str, str],
    mounts: list[Mount],
) -> compose.Blob:
    from ctrt.engine import options as tables

    engine = builder.engine
    config = copied(state.config)
    process = {**state.process, "Entrypoint": None, "Cmd": None}
    image = Image(
        "localhost/build:step", "", media.OCI_MANIFEST, "", {**config, "config": process},
        state.stack(), 0,
    )  # fmt: skip
    network = _network(builder, step)
    words = ["--hostname=build", "--security-opt=no-new-privileges=false"]
    words.append(f"--network={network}")
    # What leads out of this host is lent as a secret is: it is in no layer and no key.
    lent = {key: os.environ[key] for key in PROXIES & os.environ.keys()}
    lent = {**(lent if network == "host" else {}), **builder.proxies}
    extra = {**{k: v for k, v in lent.items() if k not in state.environment()}, **extra}
    chosen = tables.RUN.parse([*words, *(f"--env={k}={v}" for k, v in extra.items())])
    spawn = engine.unpacker().spawn
    with ExitStack() as until, builder.store.temporary(spawn) as work:
        os.chmod(work.path, 0o711)
        for number, mount in enumerate(mounts):
            place = f"{work.path}/{number}"
            _lend(builder, mount, place, chosen, until)
        writable = os.path.join(work.path, "c")
        os.mkdir(writable, 0o711)
        prepared = engine.prepare(image, command, chosen, writable=writable)
        container = engine.start(prepared)
        try:
            status = container.stream(builder.output)
        except BaseException:
            # What it writes to is taken away now, so it must be gone.
            container.signal(9)
            container.collect()
            raise
        if status:
            raise ContainerError(f"{builder.where}, line {step.line}: {step.source()}", status)
        upper = upper_of(engine, prepared.config or {}, f"{writable}/upper", image)
        return difference.layer(builder.store, upper, time_ns=builder.time_ns)


def _lend(builder: Builder, mount: Mount, place: str, chosen: Values, until: ExitStack) -> None:
    """Make what a --mount shows below `place`, and add it to the options of the container."""
    said = mount.said
    access = "rw" if mount.kind == "cache" else "ro"
    if "rw" in said or said.get("readonly") == "false":
        access = "rw"
    if "ro" in said:
        access = "ro"
    owner = (int(said.get("uid", 0)), int(said.get("gid", 0)))
    if mount.kind == "tmpfs":
        size = f":size={said['size']}" if said.get("size") else ""
        chosen.tmpfs.append(f"{mount.target}{size}")
    elif mount.kind == "bind" and mount.source is not None:
        found = _materialised(builder, place, mount.source, mount.path)
        chosen.volume.append(f"{found}:{mount.target}:{access}")
    elif mount.kind == "cache":
        found = _cache_directory(builder, mount, owner, until)
        chosen.volume.append(f"{found}:{mount.target}:{access}")
    elif mount.kind == "secret" and mount.name in builder.secrets:
        data = builder.secrets[mount.name]
        if "env" in said:
            value = data.decode(errors="surrogateescape")
            chosen.env.append(f"{said['env'] or mount.name}={value}")
        if mount.target:
            file = sources.Memory({"it": data}, int(said.get("mode", "400"), 8))
            found = _materialised(builder, place, file, "it", owner)
            chosen.volume.append(f"{found}:{mount.target}:ro")
    elif mount.kind == "ssh" and mount.name in builder.agents:
        os.mkdir(place, 0o711)
        # A socket's path has at most 107 bytes, and the store's may have more.
        lent = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        until.callback(os.close, lent)
        relay = Relay(f"/proc/self/fd/{lent}/agent", builder.agents[mount.name])
        until.enter_context(relay)
        chosen.volume.append(f"{place}/agent:{mount.target}")
        chosen.env.append(f"SSH_AUTH_SOCK={mount.target}")


def _materialised(
    builder: Builder, place: str, source: sources.Source, path: str, owner: tuple[int, int] = (0, 0)
) -> str:
    """A copy of a part of the context or a stage that the container can read."""
    from ctrt.images import layers
    from ctrt.oci import fastjson

    spawn = builder.engine.unpacker().spawn
    os.mkdir(place)
    os.mkdir(f"{place}/tree", 0o755)
    last = "it"
    names = {}
    for found in source.walk(path):
        if source.kind(found):
            rest = found[len(path) :].strip("/")
            names[found] = f"{last}/{rest}" if rest else last
    hashed = sha256()
    with open(f"{place}/tar", "xb") as file:
        for piece in (*source.write(names, {}), compose.END):
            hashed.update(piece)
            file.write(piece)
    order = {"name": "bind", "blob": f"{place}/tar", "size": os.stat(f"{place}/tar").st_size,
             "diff_id": f"sha256:{hashed.hexdigest()}", "into": f"{place}/tree",
             "lowers": []}  # fmt: skip
    with open(f"{place}/orders", "x", encoding="ascii") as orders:
        orders.write(
            fastjson.dumps({"layers": [order], "world": "single", "workers": 1, "path": ""})
        )
    if (spawn or layers.run_here)(layers.program("unpack", f"{place}/orders")):
        raise CtrtError("what --mount needs cannot be copied")
    os.unlink(f"{place}/tar")
    _own(builder, f"{place}/tree", owner)
    os.chmod(place, 0o711)
    return f"{place}/tree/{last}"


def _own(builder: Builder, place: str, owner: tuple[int, int]) -> None:
    """Give a tree to ids of the container."""
    host = builder.engine.host
    if host.privileged:
        if host.idmapped_overlay:
            owner = (host.id_maps()[0][0][1] + owner[0], host.id_maps()[1][0][1] + owner[1])
        for above, directories, files in os.walk(place):
            for name in (*directories, *files):
                os.lchown(os.path.join(above, name), *owner)
        os.lchown(place, *owner)
    elif owner != (0, 0) and builder.engine.run_mapped(
        ["/bin/chown", "-hR", "{}:{}".format(*owner), place]
    ):
        raise CtrtError(
            "--mount: the ids {}:{} are not among those that you may use".format(*owner)
        )


def _cache_directory(
    builder: Builder, mount: Mount, owner: tuple[int, int], until: ExitStack
) -> str:
    """The directory of a cache, locked until the end of the RUN as `sharing` says."""
    import fcntl

    name = sha256((mount.name or mount.target).encode()).hexdigest()[:32]
    above = caches(builder.engine)
    os.makedirs(above, mode=0o711, exist_ok=True)
    lock = os.open(f"{above}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until.callback(os.close, lock)
    alone = mount.said.get("sharing") == "locked"
    fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    place = f"{above}/{name}"
    if not os.path.isdir(place):
        with builder.store.temporary() as work:
            fresh = f"{work.path}/fresh"
            if mount.source is not None:
                fresh = _materialised(builder, fresh, mount.source, mount.path)
            else:
                os.mkdir(fresh)
                os.chmod(fresh, int(mount.said.get("mode", "755"), 8))
            try:
                os.rename(fresh, place)
            except OSError:
                if not os.path.isdir(place):  # else another build made it
                    raise
            _own(builder, place, owner)
    return place
