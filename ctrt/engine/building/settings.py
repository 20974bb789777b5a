"""The instructions that change the configuration of an image and, but for WORKDIR, no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctrt.images import containerfile
from ctrt.images import context as sources
from ctrt.images.containerfile import Instruction, mistake
from ctrt.linux import signals

if TYPE_CHECKING:
    from ctrt.engine.building.stages import Builder
    from ctrt.engine.building.state import State
    from ctrt.images import compose


def env(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """ENV: variables of the environment, for RUN and for what the image runs."""
    pairs = _pairs(builder, step, state)
    merged = {**state.environment(), **pairs}
    shown = " ".join(f"{name}={value}" for name, value in pairs.items())
    builder.change(state, step, shown, Env=[f"{name}={value}" for name, value in merged.items()])


def label(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """LABEL: words about the image."""
    pairs = _pairs(builder, step, state)
    shown = " ".join(f"{name}={value}" for name, value in pairs.items())
    builder.change(state, step, shown, Labels={**(state.process.get("Labels") or {}), **pairs})


def arg(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """ARG: variables of the build, which --build-arg may give."""
    for name, default in builder.declared(step, state.values()):
        inherited = (
            builder.meta.get(name, builder.globals.get(name)) if default is None else default
        )
        value = builder.argument(name, inherited)
        if value is not None:
            state.arguments[name] = value
    builder.note(state, f"ARG {step.text}", empty=True)


def user(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """USER: whose rights RUN and the image's program have."""
    name = builder.expand(step.text, state.values(), step.line)
    builder.change(state, step, name, User=name)


def stopsignal(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """STOPSIGNAL: what asks the image's program to end."""
    name = builder.expand(step.text, state.values(), step.line)
    if signals.number(name) is None:
        raise mistake(builder.where, step.line, f'STOPSIGNAL: "{name}" is no signal')
    builder.change(state, step, name, StopSignal=name)


def expose(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """EXPOSE: the ports that the image's program listens on."""
    ports = dict(state.process.get("ExposedPorts") or {})
    for word in builder.split(step.text, state, step.line):
        port, _, protocol = word.partition("/")
        first, _, end = port.partition("-")
        if not (first.isdecimal() and (end or first).isdecimal()) or (
            protocol.lower() not in ("", "tcp", "udp", "sctp")
        ):
            raise mistake(builder.where, step.line, f'EXPOSE: "{word}" is not PORT[/tcp|/udp]')
        for number in range(int(first), int(end or first) + 1):
            ports[f"{number}/{protocol.lower() or 'tcp'}"] = {}
    builder.change(state, step, step.text, ExposedPorts=ports)


def volume(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """VOLUME: the places whose files belong to a container."""
    words = step.words()
    if words is None:
        words = builder.split(step.text, state, step.line)
    places = dict(state.process.get("Volumes") or {})
    places |= {builder.expand(word, state.values(), step.line): {} for word in words}
    builder.change(state, step, " ".join(words), Volumes=places)


def shell(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """SHELL: what reads the shell form of RUN, CMD and ENTRYPOINT."""
    words = step.words()
    if not words:
        raise mistake(builder.where, step.line, 'SHELL must be like ["/bin/sh", "-c"]')
    builder.change(state, step, step.text, Shell=words)


def cmd(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """CMD: the image's program, or the arguments of its entry point."""
    state.has_command = True
    builder.change(state, step, step.text, Cmd=_command(step, state))


def entrypoint(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """ENTRYPOINT: the image's program."""
    # What the base runs by default is no argument of another program; this stage's CMD is.
    command = state.process.get("Cmd") if state.has_command else None
    builder.change(state, step, step.text, Entrypoint=_command(step, state), Cmd=command)


def healthcheck(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """HEALTHCHECK: how to see whether the image's program is well."""
    kind, _, rest = step.text.partition(" ")
    check: dict[str, Any]
    if kind.upper() == "NONE" and not rest:
        check = {"Test": ["NONE"]}
    elif kind.upper() == "CMD" and rest.strip():
        words = containerfile.json_words(rest.strip())
        check = {"Test": ["CMD", *words] if words else ["CMD-SHELL", rest.strip()]}
    else:
        raise mistake(builder.where, step.line, "expected HEALTHCHECK CMD COMMAND, or NONE")
    for flag, key in (("interval", "Interval"), ("timeout", "Timeout"),
                      ("start-period", "StartPeriod"),
                      ("start-interval", "StartInterval")):  # fmt: skip
        if value := step.flag(flag):
            check[key] = _duration(builder, value, step)
    if value := step.flag("retries"):
        if not value.isdecimal():
            raise mistake(builder.where, step.line, f'--retries="{value}" is no number')
        check["Retries"] = int(value)
    builder.change(state, step, step.text, Healthcheck=check)


def onbuild(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """ONBUILD: an instruction for builds upon this image."""
    inner = containerfile.one(step.text, step.line, builder.where)
    if inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
        raise mistake(builder.where, step.line, f"ONBUILD {inner.name} is not allowed")
    triggers = [*(state.process.get("OnBuild") or ()), step.text]
    builder.change(state, step, step.text, OnBuild=triggers)


def maintainer(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """MAINTAINER: the author."""
    state.config["author"] = step.text
    builder.change(state, step, step.text)


def workdir(builder: Builder, step: Instruction, state: State, _at: int) -> None:
    """WORKDIR: the working directory, which is made where it is missing."""
    path = builder.expand(step.text, state.values(), step.line)
    if not path.startswith("/"):
        path = f"{state.process.get('WorkingDir') or '/'}/{path}"
    path = "/" + sources.tidy(path)
    state.process["WorkingDir"] = path
    tree = builder.tree(state)
    if tree.is_directory(path):
        builder.change(state, step, path)
        return
    looks: dict[str, int] = {}
    if state.process.get("User"):
        from ctrt.engine.building.copying import owner

        # Who is to work there must be able to: as buildah and BuildKit have it.
        user = state.process["User"]
        user += ":0" if user.isdecimal() else ""  # a number that stands for itself has no group
        looks["uid"], looks["gid"] = owner(builder, user, state, step)

    def make() -> compose.Blob:
        return builder.pack(builder.parents(state, {tree.resolve(path)}, **looks))

    builder.layer(state, f"WORKDIR {path}", (repr(looks),) if looks else (), make)


def _pairs(builder: Builder, step: Instruction, state: State) -> dict[str, str]:
    """NAME=VALUE ..., or the old form NAME VALUE."""
    words = builder.split(step.text, state, step.line)
    if "=" not in step.text.split(None, 1)[0]:
        name, _, value = step.text.partition(" ")
        if not value.strip():
            raise mistake(builder.where, step.line, f"{step.name} {name} has no value")
        return {name: builder.expand(value.strip(), state.values(), step.line)}
    for word in words:
        if "=" not in word.lstrip("="):
            raise mistake(builder.where, step.line, f'{step.name}: "{word}" is not NAME=VALUE')
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _command(step: Instruction, state: State) -> list[str]:
    words = step.words()
    if words is not None:
        return words
    return [*(state.process.get("Shell") or ["/bin/sh", "-c"]), step.text]


def _duration(builder: Builder, text: str, step: Instruction) -> int:
    """Go's notation (1m30s) in nanoseconds."""
    import re

    units = {"h": 3600_000_000_000, "m": 60_000_000_000, "s": 10**9, "ms": 10**6, "us": 1000}
    if not re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms|us))+", text):
        raise mistake(builder.where, step.line, f'"{text}" is no duration such as 30s or 1m30s')
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)", text)
    return round(sum(float(number) * units[unit] for number, unit in parts))
