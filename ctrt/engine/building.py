"""Building: a Containerfile and a directory in, an image out; RUN is a container of ours.

Every instruction has a key: the digest of the key before it and of all that it depends on. A
step that makes a layer leaves an image without a name in the store under its key, and a build
that comes to the same key takes that instead (`Store.remember`, `Store.recall`). So what is
built again without a change has the same digest, and with a fixed time (`time_ns`,
SOURCE_DATE_EPOCH) the same digest everywhere.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrt.engine.container import ContainerError
from ctrt.engine.entrusted import Relay
from ctrt.errors import CtrtError
from ctrt.images import compose, containerfile, contents, difference, fetched
from ctrt.images import context as sources
from ctrt.images.containerfile import Instruction, mistake
from ctrt.images.store import Image, Layer
from ctrt.oci import media
from ctrt.oci.digest import chain_ids
from ctrt.oci.image import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.images.progress import Progress

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TRIGGER_LIMIT = 100


class Event(NamedTuple):
    """What a build tells while it runs.

    `kind` is "step" (an instruction begins: `text`), "cached" (the one that began was known),
    "stdout" or "stderr" (`data` of a RUN). `number` of `total` is the instruction's place.
    """

    kind: str
    number: int
    total: int
    text: str = ""
    data: bytes = b""


_MOUNTS = {
    "bind": {"source", "from", "rw", "ro", "readonly"},
    "cache": {"id", "source", "from", "sharing", "mode", "uid", "gid", "rw", "ro", "readonly"},
    "tmpfs": {"size"},
    "secret": {"id", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "required", "mode", "uid", "gid"},
}
_SHORT = {"src": "source", "dst": "target", "destination": "target", "readwrite": "rw"}


NETWORKS = ("default", "none", "host")
# What Docker's reference calls predefined: --build-arg gives them without an ARG, to RUN alone.
_PROXIES = frozenset(
    name for word in ("HTTP", "HTTPS", "FTP", "NO", "ALL")
    for name in (f"{word}_PROXY", f"{word}_PROXY".lower())
)  # fmt: skip


class Mount(NamedTuple):
    """A --mount of RUN: what is shown, where, and the rest that was said."""

    kind: str
    target: str
    name: str
    source: sources.Source | None
    path: str
    said: dict[str, str]


class State:
    """An image on its way: what the next instruction starts from."""

    def __init__(self, config: dict[str, Any], layers: list[compose.Blob], key: str) -> None:
        self.config = config
        self.layers = layers
        self.below = len(layers)  # those that were there before this build
        self.key = key
        self.arguments: dict[str, str] = {}
        self.tree: contents.Tree | None = None
        self.has_command = False  # a CMD of this stage

    @property
    def process(self) -> dict[str, Any]:
        """The part of the configuration that says what a container runs."""
        found: dict[str, Any] = self.config.setdefault("config", {})
        return found

    def environment(self) -> dict[str, str]:
        """ENV as a mapping."""
        pairs = (text.partition("=") for text in self.process.get("Env") or ())
        return {name: value for name, _, value in pairs}

    def values(self) -> dict[str, str]:
        """What a variable may stand for: ENV before ARG."""
        return {**self.arguments, **self.environment()}

    def stack(self) -> list[Layer]:
        """The layers as the store describes them."""
        chains = chain_ids([blob.diff_id for blob in self.layers])
        return [
            Layer(blob.digest, blob.diff_id, chain, blob.size, blob.media_type)
            for blob, chain in zip(self.layers, chains, strict=True)
        ]

    def turn(self, *what: str) -> None:
        """Make the key that of the state after `what`."""
        self.key = sha256("\0".join((self.key, *what)).encode(errors="surrogateescape")).hexdigest()


def build(
    engine: Engine,
    text: str,
    context: str | None = None,
    name: str = "",
    *,
    where: str = "Containerfile",
    first_line: int = 1,
    arguments: dict[str, str] | None = None,
    target: str = "",
    cache: bool = True,
    pull: str = "missing",
    time_ns: int | None = None,
    labels: dict[str, str] | None = None,
    secrets: dict[str, bytes] | None = None,
    agents: dict[str, str] | None = None,
    network: str = "none",
    platform: str = "",
    squash: str = "",
    ignore: containerfile.Ignore | None = None,
    insecure: bool = False,
    report: Callable[[Event], object] | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Image:
    """Build an image, name it and return it.

    `text` is the Containerfile's (`where` is what errors call it, and `first_line` the number of
    its first line there), `context` the directory that COPY copies from (None: there is none).
    `arguments` are --build-arg's; `target` the stage to build, by default the last. `cache` False
    does every step again. `time_ns` becomes the time of all that is made (nanoseconds; by default
    SOURCE_DATE_EPOCH, else real times stay). `secrets` and `agents` (paths of sockets) are lent
    to the RUNs that ask for them by name. `network` is "none" or "host", for a RUN that does not
    say. `platform` is OS/ARCHITECTURE[/VARIANT] where it is not to be this machine's. `squash`
    makes one layer of what the build adds ("new") or of everything ("all"). `ignore` takes the
    place of the context's ignore file. `insecure` allows registries without TLS. `report` hears of
    steps and gets the output of RUN, `progress` of what is pulled. A mistake is a CtrtError with
    the line.
    """
    if time_ns is None and os.environ.get("SOURCE_DATE_EPOCH"):
        epoch = os.environ["SOURCE_DATE_EPOCH"]
        if not epoch.isdecimal():
            raise CtrtError(f"SOURCE_DATE_EPOCH is {epoch!r}, which is no number of seconds")
        time_ns = int(epoch) * 1_000_000_000
    maker = Builder(
        engine, containerfile.parse(text, where, first_line), context, where, arguments or {},
        cache, pull, time_ns, report, progress, platform=platform, ignore=ignore,
    )  # fmt: skip
    maker.secrets, maker.agents = secrets or {}, agents or {}
    maker.network, maker.insecure = network, insecure
    with engine.store.hold():
        return maker.make(target, name, labels or {}, squash)


class Builder:
    """One build: its stages, and what they have in common."""

    def __init__(
        self,
        engine: Engine,
        file: containerfile.Containerfile,
        context: str | None,
        where: str,
        arguments: dict[str, str],
        cache: bool,
        pull: str,
        time_ns: int | None,
        report: Callable[[Event], object] | None,
        progress: Callable[[Progress], object] | None,
        *,
        platform: str = "",
        ignore: containerfile.Ignore | None = None,
    ) -> None:
        self.engine = engine
        self.store = engine.store
        self.file = file
        self.where = where
        self.given = arguments
        self.used: set[str] = set()
        self.cache = cache
        self.pull = pull
        self.time_ns = time_ns
        self.report = report
        self.progress = progress
        self.context = sources.Directory(context, ignore) if context is not None else None
        self.network = "none"
        self.insecure = False
        self.secrets: dict[str, bytes] = {}
        self.agents: dict[str, str] = {}
        self.states: dict[int, State] = {}
        self.number = self.total = 0
        here = Platform(**host_platform())
        self.platform = here
        if platform:
            from ctrt.images.pull import platform_of

            self.platform = platform_of(platform)
        self.globals = {
            f"{side}{part}": value
            for side, machine in (("TARGET", self.platform), ("BUILD", here))
            for part, value in (
                ("PLATFORM", str(machine)),
                ("OS", machine.os),
                ("ARCH", machine.architecture),
                ("VARIANT", machine.variant),
            )
        }
        self.proxies = {name: arguments[name] for name in _PROXIES & arguments.keys()}
        self.used |= self.proxies.keys()
        self.meta: dict[str, str] = {}
        for step in file.arguments:
            for name, default in self._declared(step, {**self.globals, **self.meta}):
                value = self._given(name, default)
                if value is not None:
                    self.meta[name] = value

    # -- the whole ------------------------------------------------------------------------------

    def make(self, target: str, name: str, labels: dict[str, str], squash: str = "") -> Image:
        """Build a stage (the last, where `target` is empty) and name it."""
        stages = self.file.stages
        last = len(stages) - 1
        if target:
            found = self._stage(target, len(stages))
            if found is None:
                names = ", ".join(stage.name for stage in stages)
                raise CtrtError(f"{self.where} has no stage {target!r}; it has {names}")
            last = found
        needed = self._needed(last)
        self.total = sum(1 + len(stages[at].instructions) for at in needed)
        for at in needed:
            self.states[at] = self._build_stage(at)
        unknown = sorted(set(self.given) - self.used)
        if unknown:
            raise CtrtError(f"--build-arg {unknown[0]}: {self.where} declares no such ARG")
        state = self.states[last]
        if squash:
            self._squash(state, state.below if squash == "new" else 0)
        if labels:
            state.process["Labels"] = {**(state.process.get("Labels") or {}), **labels}
        digest = compose.add_manifest(self.store, state.config, state.layers)
        return self.store.tag(name or f"localhost/{digest[7:19]}", digest)

    def _stage(self, name: str, before: int) -> int | None:
        """The number of a stage that comes before another."""
        for at in range(before - 1, -1, -1):
            if self.file.stages[at].name == name.lower():
                return at
        return int(name) if name.isdecimal() and int(name) < before else None

    def _needed(self, last: int) -> list[int]:
        """The stages that a stage stands on, in order."""
        found: set[int] = set()
        todo = [last]
        while todo:
            at = todo.pop()
            if at in found:
                continue
            found.add(at)
            stage = self.file.stages[at]
            names = [self._base(stage)]
            for step in stage.instructions:
                names.append(step.flag("from") or "")
                for key, value in step.flags:
                    if key == "mount":
                        names.append(_options(value).get("from", ""))
            todo += [n for name in names if name and (n := self._stage(name, at)) is not None]
        return sorted(found)

    def _base(self, stage: containerfile.Stage) -> str:
        return self._expand(stage.base, {**self.globals, **self.meta}, stage.line)

    def _expand(self, text: str, values: dict[str, str], line: int) -> str:
        try:
            return containerfile.expand(text, values, self.file.escape)
        except ValueError as error:
            raise mistake(self.where, line, str(error)) from None

    def _split(self, text: str, state: State, line: int) -> list[str]:
        try:
            return containerfile.split(text, state.values(), self.file.escape)
        except ValueError as error:
            raise mistake(self.where, line, str(error)) from None

    def _declared(
        self, step: Instruction, values: dict[str, str]
    ) -> Iterator[tuple[str, str | None]]:
        try:
            words = containerfile.split(step.text, values, self.file.escape)
        except ValueError as error:
            raise mistake(self.where, step.line, str(error)) from None
        for word in words:
            name, equals, value = word.partition("=")
            if not name.replace("_", "a").isalnum():
                raise mistake(self.where, step.line, f'"{name}" is no name of a variable')
            yield name, value if equals else None

    def _given(self, name: str, default: str | None) -> str | None:
        if name in self.given:
            self.used.add(name)
            return self.given[name]
        return default

    # -- stages ---------------------------------------------------------------------------------

    def _build_stage(self, at: int) -> State:
        stage = self.file.stages[at]
        base = self._base(stage)
        self._tell(Instruction("FROM", (), f"{base} AS {stage.name}", (), stage.line))
        state = self._from(stage, base, at)
        triggers = state.process.pop("OnBuild", None) or []
        steps = [containerfile.one(text, stage.line, self.where) for text in triggers]
        self.total += len(steps)
        if len(steps) > _TRIGGER_LIMIT:
            raise mistake(self.where, stage.line, f"{base} has {len(steps)} ONBUILD instructions")
        for step in (*steps, *stage.instructions):
            self._tell(step)
            self._do(step, state, at)
        return state

    def _from(self, stage: containerfile.Stage, base: str, at: int) -> State:
        platform = self._expand(stage.platform, {**self.globals, **self.meta}, stage.line)
        earlier = self._stage(base, at)
        if earlier is not None:
            before = self.states[earlier]
            state = State(_copy(before.config), list(before.layers), before.key)
            state.tree, state.below = before.tree, before.below
            state.turn("FROM")
            return state
        if base == "scratch":
            wanted = self._platform(platform)
            config: dict[str, Any] = {
                "os": wanted.os,
                "architecture": wanted.architecture,
                "config": {"Env": [f"PATH={PATH}"]},
                "history": [],
            }
            if wanted.variant:
                config["variant"] = wanted.variant
            if self.time_ns is not None:
                config["created"] = self._now()
            return State(config, [], sha256(b"scratch").hexdigest())
        if not base:
            raise mistake(self.where, stage.line, "FROM names no image")
        try:
            image = self._image(base, platform)
        except CtrtError as error:
            raise mistake(self.where, stage.line, str(error)) from None
        state = State(_copy(image.config), compose.blobs(image), image.digest)
        state.config.pop("rootfs", None)
        if self.time_ns is not None:
            state.config["created"] = self._now()
        return state

    def _platform(self, text: str) -> Platform:
        """The platform that a FROM asks for; by default the one that the build is for."""
        if not text:
            return self.platform
        from ctrt.images.pull import platform_of

        return platform_of(text)

    def _image(self, name: str, platform: str = "") -> Image:
        wanted = self._platform(platform)
        if wanted == Platform(**host_platform()):
            return self.engine.image(
                name, when=self.pull, progress=self.progress, plain_http=self.insecure or None
            )
        from ctrt.images.pull import fits, pull
        from ctrt.images.transports import Options

        found = self.store.find(name) if self.pull != "always" else None
        if found is not None:
            keys = ("os", "architecture", "variant")
            if fits(Platform(*(found.config.get(key) or "" for key in keys)), wanted):
                return found
        if self.pull == "never":
            raise CtrtError(f"there is no image {name} for {wanted} in the store")
        options = Options(insecure=self.insecure)
        return pull(self.store, name, platform=str(wanted), progress=self.progress, options=options)

    def _tell(self, step: Instruction) -> None:
        self.number += 1
        if self.report:
            self.report(Event("step", self.number, self.total, step.source()))

    def _now(self) -> str:
        seconds = time.time() if self.time_ns is None else self.time_ns // 1_000_000_000
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

    def _do(self, step: Instruction, state: State, at: int) -> None:
        method = getattr(self, f"_{step.name.lower()}")
        method(step, state, at)

    def _note(self, state: State, text: str, *, empty: bool) -> None:
        entry: dict[str, Any] = {"created_by": text}
        if state.config.get("created"):
            entry["created"] = state.config["created"]
        if empty:
            entry["empty_layer"] = True
        state.config.setdefault("history", []).append(entry)

    def _set(self, state: State, step: Instruction, shown: str, **values: Any) -> None:
        """Carry out an instruction that only changes the configuration."""
        for key, value in values.items():
            state.process[key] = value
        state.turn(step.name, shown, repr(values))
        self._note(state, f"{step.name} {shown}", empty=True)

    def _layer(
        self, state: State, shown: str, key: tuple[str, ...], make: Callable[[], compose.Blob]
    ) -> None:
        """Carry out an instruction that makes a layer, or remember it."""
        state.turn(shown, *key, str(self.time_ns))
        known = self.store.recall(state.key) if self.cache else None
        if known is not None:
            blob = compose.blobs(known)[-1]
            state.config["created"] = known.config.get("created")
            if self.report:
                self.report(Event("cached", self.number, self.total))
        else:
            blob = make()
            state.config["created"] = self._now()
        state.layers.append(blob)
        self._note(state, shown, empty=False)
        if state.tree is not None:
            state.tree = None  # another stage may share it
        if known is None:
            digest = compose.add_manifest(self.store, state.config, state.layers)
            self.store.remember(state.key, digest)

    def _tree(self, state: State) -> contents.Tree:
        if state.tree is None:
            state.tree = contents.Tree.of(self.store, state.stack())
        return state.tree

    def _squash(self, state: State, keep: int) -> None:
        """Make one layer of all but the lowest `keep`: what they show together, and no more."""
        if len(state.layers) - keep < 2:
            return
        stack = state.stack()
        below = contents.Tree.of(self.store, stack[:keep])
        tree = self._tree(state)
        above = {path for path, node in tree.nodes.items() if path and node.layer >= keep}
        # Names of one file stay together, also where some of them were there before.
        inodes = {tree.nodes[path].content for path in above if tree.nodes[path].item.kind == "0"}
        wanted = [
            path
            for path, node in tree.nodes.items()
            if path in above or (node.item.kind == "0" and node.content in inodes)
        ]
        hidden = [
            path
            for path in below.nodes
            if path not in tree.nodes and tree.is_directory(path.rpartition("/")[0])
        ]
        hidden = [path for path in hidden if tree.resolve(path, last=False) == path]
        directories = {path.rpartition("/")[0] for path in (*wanted, *hidden)}

        def whiteouts() -> Iterator[bytes]:
            for path in sorted(hidden):
                place, _, name = path.rpartition("/")
                yield compose.header(os.fsencode(_joined(place, f".wh.{name}")), b"0")

        files = sorted(path for path in wanted if tree.nodes[path].item.kind != "5")
        directories |= {path for path in wanted if tree.nodes[path].item.kind == "5"}
        blob = self._pack(
            self._parents(state, directories),
            whiteouts(),
            contents.flatten(self.store, stack, tree, only=files),
        )
        squashed = len(state.layers) - keep
        state.layers[keep:] = [blob]
        made = [e for e in state.config.get("history") or () if not e.get("empty_layer")]
        for entry in made[-squashed:-1]:
            entry["empty_layer"] = True
        state.config["created"] = self._now()

    # -- instructions that change the configuration ------------------------------------------

    def _env(self, step: Instruction, state: State, _at: int) -> None:
        pairs = self._pairs(step, state)
        merged = {**state.environment(), **pairs}
        shown = " ".join(f"{name}={value}" for name, value in pairs.items())
        self._set(state, step, shown, Env=[f"{name}={value}" for name, value in merged.items()])

    def _label(self, step: Instruction, state: State, _at: int) -> None:
        pairs = self._pairs(step, state)
        shown = " ".join(f"{name}={value}" for name, value in pairs.items())
        self._set(state, step, shown, Labels={**(state.process.get("Labels") or {}), **pairs})

    def _pairs(self, step: Instruction, state: State) -> dict[str, str]:
        """NAME=VALUE ..., or the old form NAME VALUE."""
        words = self._split(step.text, state, step.line)
        if "=" not in step.text.split(None, 1)[0]:
            name, _, value = step.text.partition(" ")
            if not value.strip():
                raise mistake(self.where, step.line, f"{step.name} {name} has no value")
            return {name: self._expand(value.strip(), state.values(), step.line)}
        for word in words:
            if "=" not in word.lstrip("="):
                raise mistake(self.where, step.line, f'{step.name}: "{word}" is not NAME=VALUE')
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    def _arg(self, step: Instruction, state: State, _at: int) -> None:
        for name, default in self._declared(step, state.values()):
            inherited = self.meta.get(name, self.globals.get(name)) if default is None else default
            value = self._given(name, inherited)
            if value is not None:
                state.arguments[name] = value
        self._note(state, f"ARG {step.text}", empty=True)

    def _user(self, step: Instruction, state: State, _at: int) -> None:
        user = self._expand(step.text, state.values(), step.line)
        self._set(state, step, user, User=user)

    def _stopsignal(self, step: Instruction, state: State, _at: int) -> None:
        name = self._expand(step.text, state.values(), step.line)
        bare = name.upper().removeprefix("SIG")
        if name.isdecimal():
            known = 0 < int(name) <= 64
        else:
            known = hasattr(signal, f"SIG{bare}") or bare.startswith(("RTMIN+", "RTMAX-"))
        if not known:
            raise mistake(self.where, step.line, f'STOPSIGNAL: "{name}" is no signal')
        self._set(state, step, name, StopSignal=name)

    def _expose(self, step: Instruction, state: State, _at: int) -> None:
        ports = dict(state.process.get("ExposedPorts") or {})
        for word in self._split(step.text, state, step.line):
            port, _, protocol = word.partition("/")
            first, _, end = port.partition("-")
            if not (first.isdecimal() and (end or first).isdecimal()) or (
                protocol.lower() not in ("", "tcp", "udp", "sctp")
            ):
                raise mistake(self.where, step.line, f'EXPOSE: "{word}" is not PORT[/tcp|/udp]')
            for number in range(int(first), int(end or first) + 1):
                ports[f"{number}/{protocol.lower() or 'tcp'}"] = {}
        self._set(state, step, step.text, ExposedPorts=ports)

    def _volume(self, step: Instruction, state: State, _at: int) -> None:
        words = step.words()
        if words is None:
            words = self._split(step.text, state, step.line)
        places = dict(state.process.get("Volumes") or {})
        places |= {self._expand(word, state.values(), step.line): {} for word in words}
        self._set(state, step, " ".join(words), Volumes=places)

    def _shell(self, step: Instruction, state: State, _at: int) -> None:
        words = step.words()
        if not words:
            raise mistake(self.where, step.line, 'SHELL must be like ["/bin/sh", "-c"]')
        self._set(state, step, step.text, Shell=words)

    def _command(self, step: Instruction, state: State) -> list[str]:
        words = step.words()
        if words is not None:
            return words
        return [*(state.process.get("Shell") or ["/bin/sh", "-c"]), step.text]

    def _cmd(self, step: Instruction, state: State, _at: int) -> None:
        state.has_command = True
        self._set(state, step, step.text, Cmd=self._command(step, state))

    def _entrypoint(self, step: Instruction, state: State, _at: int) -> None:
        # What the base runs by default is no argument of another program; this stage's CMD is.
        command = state.process.get("Cmd") if state.has_command else None
        self._set(state, step, step.text, Entrypoint=self._command(step, state), Cmd=command)

    def _healthcheck(self, step: Instruction, state: State, _at: int) -> None:
        kind, _, rest = step.text.partition(" ")
        check: dict[str, Any]
        if kind.upper() == "NONE" and not rest:
            check = {"Test": ["NONE"]}
        elif kind.upper() == "CMD" and rest.strip():
            words = containerfile.json_words(rest.strip())
            check = {"Test": ["CMD", *words] if words else ["CMD-SHELL", rest.strip()]}
        else:
            raise mistake(self.where, step.line, "expected HEALTHCHECK CMD COMMAND, or NONE")
        for flag, key in (("interval", "Interval"), ("timeout", "Timeout"),
                          ("start-period", "StartPeriod"),
                          ("start-interval", "StartInterval")):  # fmt: skip
            if value := step.flag(flag):
                check[key] = self._duration(value, step)
        if value := step.flag("retries"):
            if not value.isdecimal():
                raise mistake(self.where, step.line, f'--retries="{value}" is no number')
            check["Retries"] = int(value)
        self._set(state, step, step.text, Healthcheck=check)

    def _duration(self, text: str, step: Instruction) -> int:
        """Go's notation (1m30s) in nanoseconds."""
        import re

        units = {"h": 3600_000_000_000, "m": 60_000_000_000, "s": 10**9, "ms": 10**6, "us": 1000}
        if not re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms|us))+", text):
            raise mistake(self.where, step.line, f'"{text}" is no duration such as 30s or 1m30s')
        parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)", text)
        return round(sum(float(number) * units[unit] for number, unit in parts))

    def _onbuild(self, step: Instruction, state: State, _at: int) -> None:
        inner = containerfile.one(step.text, step.line, self.where)
        if inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
            raise mistake(self.where, step.line, f"ONBUILD {inner.name} is not allowed")
        triggers = [*(state.process.get("OnBuild") or ()), step.text]
        self._set(state, step, step.text, OnBuild=triggers)

    def _maintainer(self, step: Instruction, state: State, _at: int) -> None:
        state.config["author"] = step.text
        self._set(state, step, step.text)

    def _workdir(self, step: Instruction, state: State, _at: int) -> None:
        path = self._expand(step.text, state.values(), step.line)
        if not path.startswith("/"):
            path = f"{state.process.get('WorkingDir') or '/'}/{path}"
        path = "/" + sources.tidy(path)
        state.process["WorkingDir"] = path
        tree = self._tree(state)
        if tree.is_directory(path):
            self._set(state, step, path)
            return
        shown = f"WORKDIR {path}"
        self._layer(
            state, shown, (), lambda: self._pack(self._parents(state, {tree.resolve(path)}))
        )

    # -- instructions that make a layer -------------------------------------------------------

    def _pack(self, *parts: Iterator[bytes]) -> compose.Blob:
        def all_parts() -> Iterator[bytes]:
            for part in parts:
                yield from part
            yield compose.END

        return compose.add_layer(self.store, all_parts())

    def _parents(self, state: State, directories: set[str], **looks: Any) -> Iterator[bytes]:
        """Entries for directories and those above them: as they are, or new."""
        tree = self._tree(state)
        every = set(directories)
        for path in directories:
            parts = path.split("/")
            every.update("/".join(parts[:deep]) for deep in range(1, len(parts)))
        for path in sorted(every - {""}):
            node = tree.nodes.get(path)
            if node is not None and node.item.kind == "5":
                yield contents.entry_header(node, path)
            else:
                values = {"mode": 0o755, "mtime_ns": self.time_ns or 0, **looks}
                yield compose.header(os.fsencode(path), b"5", **values)

    def _owner(self, text: str, state: State, step: Instruction) -> tuple[int, int]:
        """--chown=USER[:GROUP], by names of the image or numbers."""
        user, _, group = self._expand(text, state.values(), step.line).partition(":")
        uid, gid = self._identity("passwd", user, state, step)
        if group:
            gid, _ = self._identity("group", group, state, step)
        return uid, uid if gid is None else gid

    def _identity(
        self, table: str, name: str, state: State, step: Instruction
    ) -> tuple[int, int | None]:
        if name.isdecimal():
            return int(name), None
        node = self._tree(state).get(f"etc/{table}")
        text = (
            contents.read(self.store, state.stack(), node).decode(errors="replace") if node else ""
        )
        for row in (line.split(":") for line in text.splitlines()):
            if row[0] == name and len(row) > 3 and row[2].isdecimal():
                return int(row[2]), int(row[3]) if row[3].isdecimal() else None
        raise mistake(
            self.where, step.line, f"--chown: the image has no {name!r} in its /etc/{table}"
        )

    def _source(self, step: Instruction, name: str | None, at: int) -> sources.Source:
        if name is None:
            if self.context is None:
                raise mistake(
                    self.where, step.line, f"{step.name} needs a build context; none was given"
                )
            return self.context
        earlier = self._stage(name, at)
        if earlier is not None:
            state = self.states[earlier]
            return sources.ImageFiles(
                self.store, state.stack(), self._tree(state), f"the stage {name}"
            )
        try:
            image = self._image(name)
        except CtrtError as error:
            raise mistake(self.where, step.line, f"--from={name}: {error}") from None
        tree = contents.Tree.of(self.store, image.layers)
        return sources.ImageFiles(self.store, image.layers, tree, f"the image {name}")

    def _add(self, step: Instruction, state: State, at: int) -> None:
        self._copy(step, state, at)

    def _copy(self, step: Instruction, state: State, at: int) -> None:
        with ExitStack() as until:
            self._copied(step, state, at, until)

    def _copied(self, step: Instruction, state: State, at: int, until: ExitStack) -> None:
        words = step.words()
        if words is None:
            words = self._split(step.text, state, step.line)
        else:
            words = [self._expand(word, state.values(), step.line) for word in words]
        if len(words) < 2:
            raise mistake(self.where, step.line, f"expected {step.name} SOURCE... DESTINATION")
        *names, destination = words
        parents = step.flag("parents") not in (None, "false")
        changes: dict[str, Any] = {}
        if (owner := step.flag("chown")) is not None:
            changes["uid"], changes["gid"] = self._owner(owner, state, step)
        if (mode := step.flag("chmod")) is not None:
            mode = self._expand(mode, state.values(), step.line)
            if not mode or mode.strip("01234567") or int(mode, 8) > 0o7777:
                raise mistake(self.where, step.line, f'--chmod="{mode}" is no octal mode')
            changes["mode"] = int(mode, 8)
        if self.time_ns is not None:
            changes["mtime_ns"] = self.time_ns
        origin = step.flag("from")
        # The third is how many directories of the path stay away, with --parents.
        jobs: list[tuple[sources.Source, str, int]] = []
        archives: list[str] = []
        heredocs = {doc.name: doc for doc in step.heredocs}
        for name in names:
            if name.startswith("<<"):
                doc = heredocs[name.lstrip("<-").strip("\"'")]
                text = doc.text
                if doc.expand:
                    try:
                        text = containerfile.expand(
                            text, state.values(), self.file.escape, quotes=False
                        )
                    except ValueError as error:
                        raise mistake(self.where, step.line, str(error)) from None
                jobs.append((sources.Memory({doc.name: text.encode()}), doc.name, 0))
            elif step.name == "ADD" and fetched.is_address(name):
                jobs.append((*self._fetched(name, step, until), 0))
            else:
                if step.flag("checksum") is not None:
                    raise mistake(self.where, step.line, f"--checksum: {name} is not fetched")
                source = self._source(step, origin, at)
                try:
                    found = source.select(name)
                except ValueError as error:
                    raise mistake(self.where, step.line, str(error)) from None
                if not found:
                    raise mistake(self.where, step.line, f"{source.what} has no {name}")
                for path in found:
                    if (
                        step.name == "ADD"
                        and isinstance(source, sources.Directory)
                        and source.kind(path) == "0"
                        and sources.is_archive(os.path.join(source.path, path))
                    ):
                        archives.append(os.path.join(source.path, path))
                    above = sources.tidy(name.partition("/./")[0]) if "/./" in name else ""
                    jobs.append((source, path, above.count("/") + bool(above)))
        self._copy_jobs(step, state, jobs, archives, destination, changes, parents)

    def _copy_jobs(
        self,
        step: Instruction,
        state: State,
        jobs: list[tuple[sources.Source, str, int]],
        archives: list[str],
        destination: str,
        changes: dict[str, Any],
        parents: bool,
    ) -> None:
        try:
            left_out = containerfile.Ignore(
                "\n".join(value for key, value in step.flags if key == "exclude"), "--exclude"
            )
        except CtrtError as error:
            raise mistake(self.where, step.line, str(error)) from None
        tree = self._tree(state)
        place = destination
        if not place.startswith("/"):
            place = f"{state.process.get('WorkingDir') or '/'}/{place}"
        into = destination.endswith(("/", "/.")) or destination == "."
        into = into or len(jobs) > 1 or parents or bool(archives) or tree.is_directory(place)
        place = tree.resolve(place)
        parts: list[tuple[sources.Source, dict[str, str]]] = []
        directories: set[str] = {place} if into else {place.rpartition("/")[0]}
        digests: list[str] = []
        unpacked: list[tuple[str, str]] = []
        for source, path, without in jobs:
            last = path.rpartition("/")[2]
            if left_out.leaves_out(path) or left_out.leaves_out(last):
                continue
            if (
                isinstance(source, sources.Directory)
                and os.path.join(source.path, path) in archives
            ):
                unpacked.append((os.path.join(source.path, path), place))
                digests.append(f"{place} unpacked {source.print_of(path)}")
                continue
            names: dict[str, str] = {}
            above = place
            if parents:
                parts_of = path.split("/")
                for deep in range(without + 1, len(parts_of)):
                    above = _joined(place, "/".join(parts_of[without:deep]))
                    names["/".join(parts_of[:deep])] = above
            if source.kind(path) == "5":
                if parents and path:
                    names[path] = above = _joined(above, last)
                directories.add(above)
                for found in list(source.walk(path))[1:]:
                    rest = found[len(path) :].lstrip("/")
                    if not left_out.leaves_out(found) and not left_out.leaves_out(rest):
                        names[found] = _joined(above, rest)
                names = {found: name for found, name in names.items() if source.kind(found)}
            else:
                names[path] = _joined(above, last) if into else place
            digests += [f"{target} {source.print_of(found)}" for found, target in names.items()]
            parts.append((source, names))
        own = {key: changes[key] for key in ("uid", "gid") if key in changes}

        def make() -> compose.Blob:
            pieces = [self._parents(state, directories, **own)]
            pieces += [source.write(names, changes) for source, names in parts]
            for path, target in unpacked:
                pieces.append(sources.archive(path, partial(_joined, target), changes))
            return self._pack(*pieces)

        content = sha256("\n".join(digests).encode(errors="surrogateescape")).hexdigest()
        self._layer(state, step.source(), (place, content, repr(changes)), make)

    def _fetched(
        self, address: str, step: Instruction, until: ExitStack
    ) -> tuple[sources.Source, str]:
        """ADD of an address: one file, or the tree of a git repository."""
        work = until.enter_context(self.store.temporary())
        place = os.path.join(work.path, "it")
        os.mkdir(place)
        checksum = step.flag("checksum")
        try:
            if not fetched.is_repository(address):
                path = fetched.file(address, place, checksum)
                return sources.Directory(place, containerfile.Ignore(), address), path
            path = fetched.repository(address, place, checksum)
            kept = step.flag("keep-git-dir") not in (None, "false")
            ignore = containerfile.Ignore("" if kept else "**/.git")
            source = sources.Directory(place, ignore, f"the repository {address}")
            if not source.kind(path):
                raise CtrtError(f"{source.what} has no /{path}")
        except CtrtError as error:
            raise mistake(self.where, step.line, str(error)) from None
        return source, path

    # -- RUN ------------------------------------------------------------------------------------

    def _run(self, step: Instruction, state: State, at: int) -> None:
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
        self._network(step)
        if step.flag("security") not in (None, "sandbox"):
            raise mistake(
                self.where, step.line,
                "--security=insecure is not supported: RUN has the rights of ctrt run",
            )  # fmt: skip
        pieces = [f"{key}={value}" for key, value in sorted(extra.items())]
        mounts = [
            self._mount(step, self._expand(value, state.values(), step.line), at)
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
        self._layer(
            state, shown, (*command, bodies, *pieces),
            lambda: self._execute(step, state, command, extra, mounts),
        )  # fmt: skip

    def _network(self, step: Instruction) -> str:
        """The network of a RUN: "none", or "host"."""
        said = step.flag("network") or "default"
        if said not in NETWORKS:
            raise mistake(
                self.where, step.line,
                f"--network is one of {', '.join(NETWORKS)}, not {said!r}",
            )  # fmt: skip
        return self.network if said == "default" else said

    def _mount(self, step: Instruction, text: str, at: int) -> Mount:
        """Read a --mount of RUN."""
        said = _options(text)
        kind = said.pop("type", "bind")
        if kind not in _MOUNTS:
            raise mistake(
                self.where, step.line,
                f"--mount: there is no type {kind}; there are {', '.join(_MOUNTS)}",
            )  # fmt: skip
        for short, long in _SHORT.items():
            if short in said:
                said[long] = said.pop(short)
        unknown = sorted(set(said) - _MOUNTS[kind] - {"target"})
        if unknown:
            raise mistake(self.where, step.line, f"--mount: type={kind} has no option {unknown[0]}")
        for key in ("uid", "gid", "mode"):
            number = said.get(key, "0")
            if not number.isdecimal() or (key == "mode" and number.strip("01234567")):
                raise mistake(self.where, step.line, f"--mount: {key}={number} is no number")
        name = said.get("id") or ("default" if kind == "ssh" else "")
        target = said.get("target", "")
        if kind == "secret":
            name = name or target.rpartition("/")[2]
            if not name:
                raise mistake(self.where, step.line, "--mount: type=secret needs an id=")
            if not target and "env" not in said:
                target = f"/run/secrets/{name}"
        elif kind == "ssh":
            target = target or f"/run/ssh-agent/{name}"
        elif not target:
            raise mistake(self.where, step.line, "--mount: target= is missing")
        required = said.get("required", "false") not in ("false", "", "0")
        if required and name not in (self.secrets if kind == "secret" else self.agents):
            raise mistake(
                self.where, step.line,
                f"--mount: no {kind} {name} was given; see: ctrt build --help",
            )  # fmt: skip
        source: sources.Source | None = None
        path = sources.tidy(said.get("source", ""))
        if kind == "bind" or (kind == "cache" and "from" in said):
            source = self._source(step, said.get("from"), at)
            if not source.kind(path):
                raise mistake(self.where, step.line, f"--mount: {source.what} has no /{path}")
        return Mount(
            kind, f"/{sources.tidy(target)}" if target else "", name, source, path, said
        )  # fmt: skip

    def _execute(
        self,
        step: Instruction,
        state: State,
        command: list[str],
        extra: dict[str, str],
        mounts: list[Mount],
    ) -> compose.Blob:
        from ctrt.engine import options as tables

        engine = self.engine
        config = _copy(state.config)
        process = {**state.process, "Entrypoint": None, "Cmd": None}
        image = Image(
            "localhost/build:step", "", media.OCI_MANIFEST, "", {**config, "config": process},
            state.stack(), 0,
        )  # fmt: skip
        network = self._network(step)
        words = ["--hostname=build", "--security-opt=no-new-privileges=false"]
        words.append(f"--network={network}")
        # What leads out of this host is lent as a secret is: it is in no layer and no key.
        lent = {key: os.environ[key] for key in _PROXIES & os.environ.keys()}
        lent = {**(lent if network == "host" else {}), **self.proxies}
        extra = {**{k: v for k, v in lent.items() if k not in state.environment()}, **extra}
        chosen = tables.RUN.parse([*words, *(f"--env={k}={v}" for k, v in extra.items())])
        spawn = None if engine.host.privileged else engine._spawn  # noqa: SLF001
        with ExitStack() as until, self.store.temporary(spawn) as work:
            os.chmod(work.path, 0o711)
            for number, mount in enumerate(mounts):
                place = f"{work.path}/{number}"
                self._lend(mount, place, chosen, until)
            writable = os.path.join(work.path, "c")
            os.mkdir(writable, 0o711)
            prepared = engine.prepare(image, command, chosen, writable=writable)
            container = engine.start(prepared)
            try:
                status = container.stream(
                    lambda name, data: (
                        self.report(Event(name, self.number, self.total, data=data))
                        if self.report
                        else None
                    )
                )
            except BaseException:
                # What it writes to is taken away now, so it must be gone.
                container.signal(9)
                container.collect()
                raise
            if status:
                raise ContainerError(f"{self.where}, line {step.line}: {step.source()}", status)
            upper = upper_of(engine, prepared.config or {}, f"{writable}/upper", image)
            return difference.layer(self.store, upper, time_ns=self.time_ns)

    def _lend(self, mount: Mount, place: str, chosen: Values, until: ExitStack) -> None:
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
            found = self._materialised(place, mount.source, mount.path)
            chosen.volume.append(f"{found}:{mount.target}:{access}")
        elif mount.kind == "cache":
            found = self._cache_directory(mount, owner, until)
            chosen.volume.append(f"{found}:{mount.target}:{access}")
        elif mount.kind == "secret" and mount.name in self.secrets:
            data = self.secrets[mount.name]
            if "env" in said:
                value = data.decode(errors="surrogateescape")
                chosen.env.append(f"{said['env'] or mount.name}={value}")
            if mount.target:
                file = sources.Memory({"it": data}, int(said.get("mode", "400"), 8))
                found = self._materialised(place, file, "it", owner)
                chosen.volume.append(f"{found}:{mount.target}:ro")
        elif mount.kind == "ssh" and mount.name in self.agents:
            os.mkdir(place, 0o711)
            # A socket's path has at most 107 bytes, and the store's may have more.
            lent = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            until.callback(os.close, lent)
            relay = Relay(f"/proc/self/fd/{lent}/agent", self.agents[mount.name])
            until.enter_context(relay)
            chosen.volume.append(f"{place}/agent:{mount.target}")
            chosen.env.append(f"SSH_AUTH_SOCK={mount.target}")

    def _materialised(
        self, place: str, source: sources.Source, path: str, owner: tuple[int, int] = (0, 0)
    ) -> str:
        """A copy of a part of the context or a stage that the container can read."""
        from ctrt.images import layers
        from ctrt.oci import fastjson

        spawn = None if self.engine.host.privileged else self.engine._spawn  # noqa: SLF001
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
        self._own(f"{place}/tree", owner)
        os.chmod(place, 0o711)
        return f"{place}/tree/{last}"

    def _own(self, place: str, owner: tuple[int, int]) -> None:
        """Give a tree to ids of the container."""
        host = self.engine.host
        if host.privileged:
            if host.idmapped_overlay:
                owner = (host.id_maps()[0][0][1] + owner[0], host.id_maps()[1][0][1] + owner[1])
            for above, directories, files in os.walk(place):
                for name in (*directories, *files):
                    os.lchown(os.path.join(above, name), *owner)
            os.lchown(place, *owner)
        elif owner != (0, 0) and self.engine._spawn(  # noqa: SLF001
            ["/bin/chown", "-hR", "{}:{}".format(*owner), place]
        ):
            raise CtrtError(
                "--mount: the ids {}:{} are not among those that you may use".format(*owner)
            )

    def _cache_directory(self, mount: Mount, owner: tuple[int, int], until: ExitStack) -> str:
        """The directory of a cache, locked until the end of the RUN as `sharing` says."""
        import fcntl

        name = sha256((mount.name or mount.target).encode()).hexdigest()[:32]
        above = caches(self.engine)
        os.makedirs(above, mode=0o711, exist_ok=True)
        lock = os.open(f"{above}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until.callback(os.close, lock)
        alone = mount.said.get("sharing") == "locked"
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        place = f"{above}/{name}"
        if not os.path.isdir(place):
            with self.store.temporary() as work:
                fresh = f"{work.path}/fresh"
                if mount.source is not None:
                    fresh = self._materialised(fresh, mount.source, mount.path)
                else:
                    os.mkdir(fresh)
                    os.chmod(fresh, int(mount.said.get("mode", "755"), 8))
                try:
                    os.rename(fresh, place)
                except OSError:
                    if not os.path.isdir(place):  # else another build made it
                        raise
                self._own(place, owner)
        return place


def caches(engine: Engine) -> str:
    """Where the caches of `RUN --mount=type=cache` are."""
    return os.path.join(engine.root, "cache", "mounts")


def prune_caches(engine: Engine) -> None:
    """Remove the caches of `RUN --mount=type=cache` that no build uses just now."""
    import fcntl

    from ctrt.images import layers

    spawn = None if engine.host.privileged else engine._spawn  # noqa: SLF001
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
        return difference.Upper(path, lowers, mounts=mounts, spawn=engine._spawn)  # noqa: SLF001
    uids, gids = host.id_maps() if host.idmapped_overlay else ((), ())
    return difference.Upper(path, lowers, mounts=mounts, uids=uids, gids=gids)


def _joined(above: str, name: str) -> str:
    return "/".join(part for part in (above, name) if part)


def _options(text: str) -> dict[str, str]:
    """`KEY=VALUE,KEY,...` as a mapping."""
    return {key: value for key, _, value in (part.partition("=") for part in text.split(","))}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value
