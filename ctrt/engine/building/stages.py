"""A build as a whole: its arguments, its stages and where they start, the keys and the layers."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ctrt.engine.building import copying, running, settings
from ctrt.engine.building.state import Event, State, copied
from ctrt.errors import CtrtError
from ctrt.images import compose, containerfile, contents
from ctrt.images import context as sources
from ctrt.images.containerfile import Instruction, mistake
from ctrt.images.store import Image
from ctrt.oci.image import Platform, host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.engine import Engine
    from ctrt.images.progress import Progress

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TRIGGER_LIMIT = 100
_INSTRUCTIONS = {
    "ADD": copying.copy,
    "ARG": settings.arg,
    "CMD": settings.cmd,
    "COPY": copying.copy,
    "ENTRYPOINT": settings.entrypoint,
    "ENV": settings.env,
    "EXPOSE": settings.expose,
    "HEALTHCHECK": settings.healthcheck,
    "LABEL": settings.label,
    "MAINTAINER": settings.maintainer,
    "ONBUILD": settings.onbuild,
    "RUN": running.run,
    "SHELL": settings.shell,
    "STOPSIGNAL": settings.stopsignal,
    "USER": settings.user,
    "VOLUME": settings.volume,
    "WORKDIR": settings.workdir,
}


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
        self.proxies = {name: arguments[name] for name in running.PROXIES & arguments.keys()}
        self.used |= self.proxies.keys()
        self.meta: dict[str, str] = {}
        for step in file.arguments:
            for name, default in self.declared(step, {**self.globals, **self.meta}):
                value = self.argument(name, default)
                if value is not None:
                    self.meta[name] = value

    # -- the whole --------------------------------------------------------------------------------

    def make(self, target: str, name: str, labels: dict[str, str], squash: str = "") -> Image:
        """Build a stage (the last, where `target` is empty) and name it."""
        stages = self.file.stages
        last = len(stages) - 1
        if target:
            found = self.stage(target, len(stages))
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
                        names.append(running.options_of(value).get("from", ""))
            todo += [n for name in names if name and (n := self.stage(name, at)) is not None]
        return sorted(found)

    def _base(self, stage: containerfile.Stage) -> str:
        return self.expand(stage.base, {**self.globals, **self.meta}, stage.line)

    # -- stages -----------------------------------------------------------------------------------

    def stage(self, name: str, before: int) -> int | None:
        """The number of a stage that comes before another."""
        for at in range(before - 1, -1, -1):
            if self.file.stages[at].name == name.lower():
                return at
        return int(name) if name.isdecimal() and int(name) < before else None

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
        refused = next((step.name for step in steps if step.name in ("FROM", "ONBUILD")), None)
        if refused:
            raise mistake(self.where, stage.line, f"{base} has ONBUILD {refused}: not allowed")
        for step in (*steps, *stage.instructions):
            self._tell(step)
            self.do(step, state, at)
        return state

    def _from(self, stage: containerfile.Stage, base: str, at: int) -> State:
        platform = self.expand(stage.platform, {**self.globals, **self.meta}, stage.line)
        earlier = self.stage(base, at)
        if earlier is not None:
            before = self.states[earlier]
            state = State(copied(before.config), list(before.layers), before.key)
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
            image = self.image(base, platform)
        except CtrtError as error:
            raise mistake(self.where, stage.line, str(error)) from None
        state = State(copied(image.config), compose.blobs(image), image.digest)
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

    def image(self, name: str, platform: str = "") -> Image:
        """The image of that name for a platform, pulled as the build says."""
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

    # -- variables --------------------------------------------------------------------------------

    def expand(self, text: str, values: dict[str, str], line: int) -> str:
        """Replace the variables of a text; an error names the line."""
        try:
            return containerfile.expand(text, values, self.file.escape)
        except ValueError as error:
            raise mistake(self.where, line, str(error)) from None

    def split(self, text: str, state: State, line: int) -> list[str]:
        """The words of an instruction, with their variables replaced."""
        try:
            return containerfile.split(text, state.values(), self.file.escape)
        except ValueError as error:
            raise mistake(self.where, line, str(error)) from None

    def declared(
        self, step: Instruction, values: dict[str, str]
    ) -> Iterator[tuple[str, str | None]]:
        """The names that an ARG declares, each with its default, if it has one."""
        try:
            words = containerfile.split(step.text, values, self.file.escape)
        except ValueError as error:
            raise mistake(self.where, step.line, str(error)) from None
        for word in words:
            name, equals, value = word.partition("=")
            if not name.replace("_", "a").isalnum():
                raise mistake(self.where, step.line, f'"{name}" is no name of a variable')
            yield name, value if equals else None

    def argument(self, name: str, default: str | None) -> str | None:
        """What --build-arg gives for an ARG; its default else."""
        if name in self.given:
            self.used.add(name)
            return self.given[name]
        return default

    # -- steps ------------------------------------------------------------------------------------

    def _tell(self, step: Instruction) -> None:
        self.number += 1
        if self.report:
            self.report(Event("step", self.number, self.total, step.source()))

    def output(self, kind: str, data: bytes) -> None:
        """Pass on what a RUN writes: to "stdout" or to "stderr"."""
        if self.report:
            self.report(Event(kind, self.number, self.total, data=data))

    def _now(self) -> str:
        seconds = time.time() if self.time_ns is None else self.time_ns // 1_000_000_000
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

    def do(self, step: Instruction, state: State, at: int) -> None:
        """Carry out an instruction of the stage with the number `at`."""
        _INSTRUCTIONS[step.name](self, step, state, at)

    def note(self, state: State, text: str, *, empty: bool) -> None:
        """Add an instruction to the history."""
        entry: dict[str, Any] = {"created_by": text}
        if state.config.get("created"):
            entry["created"] = state.config["created"]
        if empty:
            entry["empty_layer"] = True
        state.config.setdefault("history", []).append(entry)

    def change(self, state: State, step: Instruction, shown: str, **values: Any) -> None:
        """Carry out an instruction that only changes the configuration."""
        for key, value in values.items():
            state.process[key] = value
        state.turn(step.name, shown, repr(values))
        self.note(state, f"{step.name} {shown}", empty=True)

    # -- layers -----------------------------------------------------------------------------------

    def layer(
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
        self.note(state, shown, empty=False)
        if state.tree is not None:
            state.tree = None  # another stage may share it
        if known is None:
            digest = compose.add_manifest(self.store, state.config, state.layers)
            self.store.remember(state.key, digest)

    def tree(self, state: State) -> contents.Tree:
        """The files of an image on its way."""
        if state.tree is None:
            state.tree = contents.Tree.of(self.store, state.stack())
        return state.tree

    def pack(self, *parts: Iterator[bytes]) -> compose.Blob:
        """Make a layer of the parts of an archive."""

        def all_parts() -> Iterator[bytes]:
            for part in parts:
                yield from part
            yield compose.END

        return compose.add_layer(self.store, all_parts())

    def parents(self, state: State, directories: set[str], **looks: Any) -> Iterator[bytes]:
        """Entries for directories and those above them: as they are, or new."""
        tree = self.tree(state)
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

    def _squash(self, state: State, keep: int) -> None:
        """Make one layer of all but the lowest `keep`: what they show together, and no more."""
        if len(state.layers) - keep < 2:
            return
        stack = state.stack()
        below = contents.Tree.of(self.store, stack[:keep])
        tree = self.tree(state)
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
                yield compose.header(os.fsencode(copying.joined(place, f".wh.{name}")), b"0")

        files = sorted(path for path in wanted if tree.nodes[path].item.kind != "5")
        directories |= {path for path in wanted if tree.nodes[path].item.kind == "5"}
        blob = self.pack(
            self.parents(state, directories),
            whiteouts(),
            contents.flatten(self.store, stack, tree, only=files),
        )
        squashed = len(state.layers) - keep
        state.layers[keep:] = [blob]
        made = [e for e in state.config.get("history") or () if not e.get("empty_layer")]
        for entry in made[-squashed:-1]:
            entry["empty_layer"] = True
        state.config["created"] = self._now()
