"""The magics: `%%container`, `%%image`, `%%unshare`, `%%caps` and `%ctrt`.

They parse with the tables of the command line, ask the engine, and show what it returns. What
goes wrong is an exception that a notebook shows as one line, and that its tests can see.
"""

from __future__ import annotations

import builtins
import functools
import os
import re
import shlex
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

from IPython.core.magic import Magics, line_cell_magic, magics_class

from ctrt.engine import default_engine, rights
from ctrt.engine.container import ContainerError
from ctrt.engine.options import EXEC, split_root
from ctrt.engine.verbs import VERBS, Flow, Text, overview
from ctrt.errors import CtrtError
from ctrt_kernel import building, cells, jobs, rich, words
from ctrt_kernel.files import KEPT_SCRIPT_PATH, SCRIPT_PATH, Files
from ctrt_kernel.jobs import Job
from ctrt_kernel.progress import Bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine import Engine, Prepared
    from ctrt.engine.container import Container, Found
    from ctrt.engine.options import Values

_ARGUMENT_BYTES = 131_071
"""An argument of a program has at most this many bytes (execve(2), MAX_ARG_STRLEN)."""

_STREAMS = (("stdout", "out"), ("stdout", "json"), ("stderr", "err"))

_servers: dict[int, Any] = {}
_servers_lock = threading.Lock()


def _planned(engine: Engine, prepared: Prepared, values: Values) -> Any:
    """What --plan shows."""
    from ctrt.engine.verbs.seeing import planned

    return planned(engine, prepared, values)


F = TypeVar("F", bound="Callable[..., Any]")


def _one_line(function: F) -> F:
    """Let an interrupt render as one line, as CtrtError does by itself."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except KeyboardInterrupt as interrupt:
            shown = f"KeyboardInterrupt: {interrupt}".rstrip(": ")
            vars(interrupt)["_render_traceback_"] = lambda: [shown]
            raise

    return cast("F", call)


@magics_class
class CtrtMagics(Magics):
    """What a cell can say."""

    shell: InteractiveShell

    @line_cell_magic
    @_one_line
    def container(self, line: str, cell: str | None = None) -> Any:
        """Run the cell in a new container."""
        table = words.CONTAINER
        values = words.parse(table, line)
        if values.help:
            return Text(table.help())
        if getattr(values, "in"):
            return self._inside(values, cell)
        if not values.operands:
            raise CtrtError(f"container: expected {table.operands}; see %%container --help")
        if getattr(values, "as"):
            return self._keep(values, cell)
        engine = _engine()
        image, *command = values.operands
        _must_be_expanded(image, line, self.shell.user_ns)
        body = _body(cell)
        is_input = bool(command) or values.entrypoint is not None
        if values.step:
            why = "each step is asked about in the cell, before there is a program"
            words.forbid(table, values, "--step", ("--detach", "--bg", "--tty"), why)
        if values.detach:
            why = "a container that is left running shows nothing in the cell"
            others = ("--graph", "--out", "--err", "--json", "--bg", "--display", "--tty")
            words.forbid(table, values, "--detach", (*others, "--interactive"), why)
            if is_input and body:
                raise CtrtError(
                    "container: with --detach and a COMMAND the cell must be empty, since "
                    "nothing would feed it to the command"
                )
        if values.bg:
            why = "a cell that has ended can ask nothing"
            words.forbid(table, values, "--bg", ("--interactive", "--tty"), why)
        with Files(values) as files:
            script = None if body is None or is_input else _script(files, body)
            files.put(values.put, self.shell.user_ns)
            if values.display:
                files.add(rich.PROGRAM_PATH, rich.PROGRAM.encode(), 0o555)
            with Bar(self.shell, alone=cell is not None) as progress:
                prepared = engine.prepare(
                    image,
                    command,
                    values,
                    default_arguments=script,
                    progress=progress,
                    trace=(values.graph or values.tty) and not values.plan,
                    terminal=values.tty and not values.plan,
                )
            if values.plan:
                return _planned(engine, prepared, values)
            _warn(engine, prepared)
            if values.detach:
                return Text(engine.detach(prepared))
            from ctrt.oci.reference import parse

            title = f"Container {parse(image).familiar()}"
            return self._run(engine, prepared, values, body if is_input else None, title)

    def _keep(self, values: Values, cell: str | None) -> Any:
        """`--as NAME`: a container that waits, and the cell as the first program in it."""
        table, name = words.CONTAINER, getattr(values, "as")
        why = "a container that is kept ends when it is stopped, or with the kernel"
        words.forbid(table, values, "--as", ("--detach", "--name", "--entrypoint", "--step"), why)
        engine = _engine()
        image, *values.operands = values.operands
        values.name = name
        with Files(values) as files, Bar(self.shell, alone=cell is not None) as progress:
            files.add(rich.PROGRAM_PATH, rich.PROGRAM.encode(), 0o555)
            values.entrypoint = jobs.WAIT[0]
            prepared = engine.prepare(image, jobs.WAIT[1:], values, progress=progress, waits=True)
            if values.plan:
                return _planned(engine, prepared, values)
            _warn(engine, prepared)
            jobs.stop_kept(name)  # not before it is clear that there will be another
            jobs.keep(self.shell, engine, prepared)
        values.volume.clear()
        values.user = None  # it is that container's already
        if not values.operands and not (cell and cell.strip()):
            return None
        return self._inside(values, cell)

    def _inside(self, values: Values, cell: str | None) -> Any:
        """`--in NAME`: the cell in a container that runs."""
        table = words.CONTAINER
        name = getattr(values, "in") or getattr(values, "as")
        if getattr(values, "in"):
            why = "the container is there already, and has what it was made with"
            words.forbid(table, values, "--in", words.OF_A_NEW_CONTAINER, why)
        engine = _engine()
        container = jobs.named(engine, name)
        command = values.operands
        if getattr(values, "in") and command and _is_image(engine, command[0]):
            raise CtrtError(
                f"container: {command[0]} is an image, and with --in {name} there is none: "
                "what follows the options is a COMMAND"
            )
        body = _body(cell)
        if not command and body is None:
            raise CtrtError(f"container: --in {name} needs a cell to run, or a COMMAND")
        with Files(values) as files:
            files.put(values.put, self.shell.user_ns)
            if not command:
                command = _script(files, body or b"", KEPT_SCRIPT_PATH)
                body = None
            files.copy_into(engine, name)
            prepared = engine.prepare_exec(
                container,
                command,
                values,
                trace=(values.graph or values.tty) and not values.plan,
                terminal=values.tty and not values.plan,
            )
            if values.plan:
                return _planned(engine, prepared, values)
            _tell(container)
            return self._run(engine, prepared, values, body, f"Container {name}")

    @line_cell_magic
    @_one_line
    def unshare(self, line: str, cell: str | None = None) -> Any:
        """Run a program in new namespaces."""
        values = words.parse(words.IN_NAMESPACES, line)
        if values.help:
            return Text(words.IN_NAMESPACES.help())
        engine = _engine()
        if getattr(values, "as"):
            return self._keep_unshared(values, cell)
        if cell is None and not values.operands:
            raise CtrtError(
                "unshare: a shell without input does nothing; name a PROGRAM, or use the cell "
                "magic %%unshare"
            )
        if getattr(values, "in"):
            return self._unshared_inside(getattr(values, "in"), values, cell, apart=values)
        with Files(values) as files:
            prepared = engine.prepare_unshare(
                values,
                trace=values.graph and not values.plan,
                environment=_environment(files, values, os.environ),
            )
            if values.plan:
                return _planned(engine, prepared, values)
            program = os.path.basename(prepared.what.split(" ", 1)[0])
            title = f"{program} in new namespaces"
            return self._run(engine, prepared, values, _body(cell), title, files)

    def _keep_unshared(self, values: Values, cell: str | None) -> Any:
        """`--as NAME`: namespaces with a process that waits, and the cell as a program in them."""
        from ctrt.engine import unsharing

        name, place = getattr(values, "as"), getattr(values, "in")
        if name == place:
            raise CtrtError(f"unshare: --as {name} would take the place of what --in names")
        engine = _engine()
        command, values.operands = values.operands, jobs.WAIT
        if place:
            options = _entering(values)
            container = jobs.named(engine, place)
            prepared = engine.prepare_exec(container, jobs.WAIT, options, die=True, apart=values)
        else:
            unsharing.check_kept(values)
            prepared = engine.prepare_unshare(values)
        prepared = engine.kept(prepared, name)
        if values.plan:
            return _planned(engine, prepared, values)
        jobs.stop_kept(name)  # not before it is clear that there will be another
        jobs.keep(self.shell, engine, prepared)
        values.operands = command
        if not command and not (cell and cell.strip()):
            return None
        values.wd = values.setuid = values.setgid = None  # those of the process that waits
        return self._unshared_inside(name, values, cell)

    def _unshared_inside(
        self, name: str, values: Values, cell: str | None, apart: Values | None = None
    ) -> Any:
        """The cell as the input of a program in what runs already."""
        body = _body(cell)
        engine = _engine()
        container = jobs.named(engine, name)
        command = values.operands or [os.environ.get("SHELL") or "/bin/sh"]
        options = _entering(values)
        with Files(values) as files:
            process = (container.config or {}).get("process", {})
            known = dict(entry.split("=", 1) for entry in process.get("env", ()))
            if environment := _environment(files, values, known):
                options.env.append(f"PATH={environment['PATH']}")
            prepared = engine.prepare_exec(
                container,
                command,
                options,
                trace=values.graph and not values.plan,
                apart=apart,
            )
            if values.plan:
                return _planned(engine, prepared, values)
            _tell(container)
            title = f"{os.path.basename(command[0])} in {name}"
            return self._run(engine, prepared, values, body, title, files)

    def _run(
        self,
        engine: Engine,
        prepared: Prepared,
        values: Values,
        stdin: bytes | None,
        draw: str | Callable[[Container], Any],
        files: Files | None = None,
    ) -> Job | None:
        """Run it; `draw` is what --graph shows, or the title of a container's picture.

        `files` are those that the program needs as long as it runs.
        """
        if isinstance(draw, str):
            draw = _container_picture(draw)
        variables = self.shell.user_ns
        wishes = cells.Wishes(
            stdin=stdin,
            keep=tuple({name for name, key in _STREAMS if getattr(values, key)}),
            draw=draw if values.graph else None,
            asks=getattr(values, "interactive", False),
            terminal=getattr(values, "tty", False),
            rich=values.display,
            steps=getattr(values, "step", False),
        )
        if values.bg:
            job = Job(
                self.shell,
                engine,
                prepared,
                wishes,
                named=bool(getattr(values, "name", None)),
                quiet_about_status=values.no_raise_error,
                files=files.taken() if files else None,
            )
            if values.bg is not True:
                variables[values.bg] = job
            return job
        ended = cells.carry_out(self.shell, engine, prepared, wishes)
        # As %%bash does it.
        variables["_exit_code"] = ended.status
        if ended.output is not None:
            variables["_output"] = ended.output
        for name, key in (("stdout", "out"), ("stderr", "err")):
            if getattr(values, key):
                variables[getattr(values, key)] = ended.kept[name].decode(errors="replace")
        if ended.interrupted:
            raise KeyboardInterrupt(f"{prepared.what} was interrupted")
        if ended.status and not values.no_raise_error:
            if values.json:
                _print(ended.kept["stdout"])
            raise ContainerError(prepared.what, ended.status)
        if values.json:
            variables[values.json] = _json(prepared.what, ended.kept["stdout"])
        return None

    @line_cell_magic
    @_one_line
    def image(self, line: str, cell: str | None = None) -> Any:
        """Build an image of the cell."""
        values = words.IMAGE.parse(words.split("image", line), interspersed=True)
        if values.help:
            return Text(words.IMAGE.help())
        if len(values.operands) != 1:
            got = " ".join(values.operands) or "none"
            raise CtrtError(f"image: expected one name for the image, got {got}")
        if not cell or not cell.strip():
            raise CtrtError("image: the cell below %%image is the Containerfile, and it is empty")
        return building.build(self.shell, _engine(), values, cell)

    @line_cell_magic
    @_one_line
    def caps(self, line: str, cell: str | None = None) -> Any:
        """Show capability sets, or run the cell with chosen ones."""
        given = words.split("caps", line)
        own = {name for option in words.CAPABILITIES.options for name in option.names}
        runs = {name for option in words.WITH_RIGHTS.options for name in option.names} - own
        if cell is None and not any(word.partition("=")[0] in runs for word in given):
            return VERBS["caps"](_engine(), given)
        values = words.parse(words.WITH_RIGHTS, line)
        if values.help:
            return Text((words.CAPABILITIES if cell is None else words.WITH_RIGHTS).help())
        return self._with_rights(values, cell)

    def _with_rights(self, values: Values, cell: str | None) -> Any:
        command = values.operands
        body = _body(cell)
        if not command and body is None:
            raise CtrtError("caps: there is no cell to run with these sets, and no PROGRAM")
        engine = _engine()
        chosen = rights.chosen(engine, values)
        with Files(values) as files:
            if not command:
                command = _script(files, body or b"", None)
                body = None
            program = command[0]
            prepared = rights.prepare(
                engine,
                chosen,
                command,
                trace=values.graph and not values.plan,
                environment=_environment(files, values, os.environ),
            )
            if values.plan:
                return _planned(engine, prepared, values)
            return self._run(
                engine,
                prepared,
                values,
                body,
                lambda container: rights.picture(chosen, program, container),
                files,
            )

    @line_cell_magic
    @_one_line
    def ctrt(self, line: str, cell: str | None = None) -> Any:
        """Do what the command line does."""
        root, given = split_root(words.split("ctrt", line))
        verb, *rest = given or ["--help"]
        if verb == "there-is-no-magic":  # of extension.mistyped
            raise CtrtError(f"there is no magic {rest[0]}; did you mean {rest[1]}?")
        if verb == "help" and rest:
            verb, rest = rest[0], ["--help"]
        if verb in ("-h", "--help", "help"):
            return Text(_umbrella_help())
        if verb in words.CELL_VERBS:
            if root:
                raise CtrtError(f"ctrt {verb}: in a notebook CTRT_ROOT says where the store is")
            magic = getattr(self, words.CELL_VERBS[verb])
            return magic(shlex.join(rest), cell)
        if cell is not None:
            raise CtrtError(
                f"ctrt {verb} takes no cell; cells are of %%container, %%unshare, %%caps and "
                "%%image"
            )
        if verb == "exec":
            return self._exec(_engine(root), rest)
        if verb not in VERBS:
            known = list(words.ALL_VERBS)
            raise CtrtError(f"ctrt: there is no verb {verb!r}; {_hint(verb, known)}")
        if "--help" in rest:
            return Text(words.VERB_TABLES[verb].help())
        table = words.VERB_TABLES[verb]
        live = verb == "graph" and table.parse(rest, interspersed=True).live
        engine = _engine(root)
        if verb == "registry":
            return _serve(engine, rest)
        if live:
            return _live(engine, [word for word in rest if not word.startswith("--live")])
        with Bar(self.shell, alone=False) as progress:
            if verb == "build":
                result = building.build_file(engine, VERBS[verb].parse(rest), progress)
            else:
                result = VERBS[verb](engine, rest, progress)
        if isinstance(result, Text) and not result.text:
            return None
        if not isinstance(result, Flow):
            return result
        here = cells.Here()
        for piece in result:
            here.stream("stdout", piece)
        if (output := here.end()) is not None:
            self.shell.user_ns["_output"] = output
        return None

    def _exec(self, engine: Engine, rest: Sequence[str]) -> Any:
        """Another command in a running container, whoever started it."""
        table = words.VERB_TABLES["exec"]
        values = words.parse(table, shlex.join(rest))
        if values.help:
            return Text(table.help())
        name, *command = values.operands or [""]
        if not command:
            raise CtrtError(f"exec: expected {table.operands}; see %ctrt exec --help")
        container = jobs.named(engine, name)
        prepared = engine.prepare_exec(
            container,
            command,
            values,
            trace=(values.graph or values.tty) and not values.plan,
            terminal=values.tty and not values.plan,
        )
        if values.plan:
            return _planned(engine, prepared, values)
        _tell(container)
        return self._run(engine, prepared, values, None, f"Container {name}")


def _entering(values: Values) -> Values:
    """What options of unshare(1) say of a program that goes where others are."""
    options = EXEC.parse([])
    options.workdir = values.wd
    if values.setuid is not None or values.setgid is not None:
        group = "" if values.setgid is None else f":{values.setgid}"
        options.user = f"{values.setuid or 0}{group}"
    return options


def _environment(
    files: Files, values: Values, environment: Mapping[str, str]
) -> dict[str, str] | None:
    """What lets a program of the host's find ctrt-display; None where that is not asked for."""
    if not values.display or values.plan:
        return None
    path = environment.get("PATH", os.defpath)
    return {**environment, "PATH": files.on_path(rich.PROGRAM_NAME, rich.PROGRAM.encode(), path)}


_told: set[tuple[int, int]] = set()
"""The processes of others of which it was said what is not inherited: (pid, start time)."""


def _tell(container: Container | Found) -> None:
    """Say what a command does not get of another engine's container, the first time."""
    from ctrt.engine.container import Found

    if isinstance(container, Found) and (container.pid, container.start_time) not in _told:
        _told.add((container.pid, container.start_time))
        for note in container.notes:
            print(note, file=sys.stderr)


def _warn(engine: Engine, prepared: Prepared) -> None:
    """Say what the options ask for and cannot be had here."""
    for note in engine.warnings(prepared):
        print(note, file=sys.stderr)


def _engine(root: str | None = None) -> Engine:
    """The process's engine on a root, after cleaning up what a crashed one has left behind."""
    engine = default_engine(root)
    engine.recover()
    return engine


def _is_image(engine: Engine, word: str) -> bool:
    """Whether a word that should be a command names an image of the store."""
    if "/" not in word or word.startswith(("/", ".")):
        return False
    try:
        return engine.store.find(word) is not None
    except CtrtError:
        return False


def _script(files: Files, body: bytes, path: str | None = SCRIPT_PATH) -> list[str]:
    """The words that run the cell as a script, in place of the image's command."""
    if b"\0" in body:
        raise CtrtError(f"container: the cell has a NUL at byte {body.index(0)}; a script has none")
    if len(body) > _ARGUMENT_BYTES or body.startswith(b"#!"):
        return files.script(body, path)
    return ["/bin/sh", "-c", body.decode(errors="surrogateescape")]


def _must_be_expanded(image: str, line: str, variables: Mapping[str, Any]) -> None:
    """Raise CtrtError if the image is still a variable's name: IPython expands all or nothing."""
    if "$" not in image and "{" not in image:
        return
    named = re.findall(r"(?<!\$)\$\{?([A-Za-z_]\w*)|(?<!\{)\{([^{}]*)\}", line)
    for name in (dollar or braces for dollar, braces in named):
        if name.isidentifier() and name not in variables and not hasattr(builtins, name):
            raise CtrtError(
                f"container: there is no Python variable {name!r}, so nothing in the line was "
                "filled in; a $ or a brace of its own is written twice"
            )


def _container_picture(title: str) -> Callable[[Container], Any]:
    def draw(container: Container) -> Any:
        from ctrt.draw import container as picture

        return picture(container.snapshot(), title=title)

    return draw


def _body(cell: str | None) -> bytes | None:
    """A cell as a program reads it. Raises CtrtError."""
    return None if cell is None else words.encoded("the cell", cell)


def _json(what: str, data: bytes) -> Any:
    """What a program's output says; what is not JSON (RFC 8259) is shown."""
    try:
        return rich.loads(data)
    except ValueError as error:
        _print(data)
        raise CtrtError(f"--json: the output of {what} is not JSON: {error}") from None


def _print(data: bytes) -> None:
    """Show output that was to be kept."""
    print(data.decode(errors="replace"), end="", flush=True)


def _hint(word: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else "see %ctrt --help"


def _umbrella_help() -> str:
    lines = ["usage: %ctrt [--root DIR] VERB [options] ..."]
    lines += overview(words.ALL_VERBS)
    lines += [
        "",
        "%ctrt VERB --help tells the options of a verb. Cells run by magics of their own: see",
        "%%container --help, %%unshare --help, %%caps --help and %%image --help.",
    ]
    return "\n".join(lines)


def _serve(engine: Engine, rest: Sequence[str]) -> Text:
    """Serve the store until the kernel ends; the same words again change nothing."""
    server = VERBS["registry"](engine, rest)
    with _servers_lock:
        if server.port not in _servers or _servers[server.port].store is not server.store:
            running = _servers.pop(server.port, None)
            if running is not None:
                running.stop()
            server.start_in_thread()
            _servers[server.port] = server
    return Text(f"the images of the store are served at localhost:{server.port}")


def _live(engine: Engine, rest: Sequence[str]) -> Any:
    """A widget that follows a container or process until it ends."""
    from ctrt.draw import Picture
    from ctrt_kernel.widgets import LiveGraph

    def draw() -> Picture:
        picture = VERBS["graph"](engine, rest)
        if not isinstance(picture, Picture):
            raise CtrtError("graph: --live is a widget, and goes with neither --json nor --svg")
        return picture

    return LiveGraph(draw)


def stop_servers() -> None:
    """End all registries of this process."""
    with _servers_lock:
        while _servers:
            _servers.popitem()[1].stop()


# What `?` shows is the help of the tables.
CtrtMagics.container.__doc__ = words.CONTAINER.help()
CtrtMagics.image.__doc__ = words.IMAGE.help()
CtrtMagics.unshare.__doc__ = words.IN_NAMESPACES.help()
CtrtMagics.caps.__doc__ = f"{words.CAPABILITIES.help()}\n\n{words.WITH_RIGHTS.help()}"
CtrtMagics.ctrt.__doc__ = _umbrella_help()
