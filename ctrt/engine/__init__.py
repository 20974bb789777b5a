r"""What a person asks for: images, runtime and network joined.

>>> from ctrt.engine import Engine
>>> Engine().run("busybox", ["echo", "hello"]).text()
'hello\n'
"""

from __future__ import annotations

import os

from ctrt.engine.prepared import Prepared
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from ctrt.engine.container import Container, Found, Result
    from ctrt.engine.options import Values
    from ctrt.engine.prepared import Stop
    from ctrt.images.layers import Unpacker
    from ctrt.images.pull import Progress
    from ctrt.images.store import Image, Store
    from ctrt.linux.cgroups import Layout
    from ctrt.runtime.host import Host
    from ctrt.runtime.launcher import Launcher, Running
    from ctrt.runtime.plan import Plan, Step

__all__ = ["Engine", "Prepared", "default_engine", "default_root", "pull", "run"]

_GRACE_SECONDS = 0.5


class Engine:
    """Images, containers and sandboxes below one root directory.

    `root` is by default CTRT_ROOT, else /var/lib/ctrt for root and $XDG_DATA_HOME/ctrt for
    others. Nothing is made or probed before it is needed.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root or default_root())
        self.containers = f"{self.root}/containers"
        self._store: Store | None = None
        self._host: Host | None = None
        self._layout: Layout | None = None
        self._launcher: Launcher | None = None
        self._last_filter: tuple[dict[str, Any] | None, bytes | None] = (None, None)

    # -- parts ----------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The content store."""
        if self._store is None:
            from ctrt.images.store import Store

            self._store = Store(self.root, in_use=self._layers_in_use)
        return self._store

    @property
    def launcher(self) -> Launcher:
        """The process that starts containers for this one."""
        if self._launcher is None:
            from ctrt.runtime.launcher import Launcher

            self._prepare_root()
            self._launcher = Launcher(self.containers)
        return self._launcher

    @property
    def host(self) -> Host:
        """What this machine and user can do."""
        if self._host is None:
            from ctrt.runtime.host import Host

            self._host = Host.probe(idmapped_overlay=os.geteuid() == 0 and self._idmapped())
        return self._host

    @property
    def layout(self) -> Layout:
        """Where this machine's cgroups are."""
        if self._layout is None:
            from ctrt.linux import cgroups

            self._layout = cgroups.layout()
        return self._layout

    def warnings(self, prepared: Prepared) -> list[str]:
        """What was asked for and is left out, in sentences; what this host lacks is none."""
        known = self.host.reasons.values()
        return [note for note in dict.fromkeys(prepared.plan.notes) if note not in known]

    def _idmapped(self) -> bool:
        """Whether overlayfs takes id-mapped layers here: tried once for each boot and root."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            known = f"{self.root}/cache/idmapped-{file.read().strip()}"
        try:
            with open(known) as file:
                return file.read() == "yes"
        except OSError:
            pass
        from ctrt.runtime import probe

        self._prepare_root()
        works = probe.idmapped_overlay(self._probe_start, f"{self.root}/cache")
        aside = f"{known}.{os.getpid()}"
        with open(aside, "w") as file:
            file.write("yes" if works else "no")
        os.replace(aside, known)  # another process may be reading it
        return works

    def _probe_start(self, plan: Plan) -> None:
        with open("/dev/null", "r+b", buffering=0) as null:
            number = null.fileno()
            self.launcher.start(plan, (number, number, number)).wait()

    def _prepare_root(self) -> None:
        """Make the root; others may pass through it (a container's root must), not look."""
        try:
            os.makedirs(self.root, mode=0o711, exist_ok=True)
            for name in ("containers", "cache"):
                os.makedirs(f"{self.root}/{name}", mode=0o711, exist_ok=True)
        except OSError as error:
            raise CtrtError(
                f"the directory {error.filename or self.root} cannot be made "
                f"({error.strerror}); set CTRT_ROOT to one that can"
            ) from None

    # -- images ---------------------------------------------------------------------------------

    def image(
        self,
        reference: str,
        *,
        when: str = "missing",
        progress: Callable[[Progress], object] | None = None,
        plain_http: bool | None = None,
    ) -> Image:
        """The image of that name, pulled as `when` says: missing, always or never.

        `plain_http` allows a registry without TLS; None allows it on loopback only.
        """
        found = self.store.find(reference) if when != "always" else None
        if found is not None:
            return found
        if when == "never":
            raise CtrtError(
                f"there is no image {reference} in the store; "
                + (self._almost(reference) or f"pull it with: ctrt pull {reference}")
            )
        from ctrt.images.pull import pull
        from ctrt.images.transports import Options

        options = Options(insecure=bool(plain_http))
        try:
            return pull(
                self.store, reference, progress=progress, options=options, unpacker=self.unpacker()
            )
        except CtrtError as error:
            if not (meant := self._almost(reference)):
                raise
            raise CtrtError(f"{error}; {meant}", status=error.status) from None

    def _almost(self, reference: str) -> str:
        """The question whether an image of the store was meant by a name that is almost its."""
        import difflib

        from ctrt.oci.reference import parse

        names = {parse(image.reference).familiar() for image in self.store.images()}
        near = difflib.get_close_matches(reference, sorted(names - {reference}), 1, 0.8)
        return f"did you mean {near[0]}, which is in the store?" if near else ""

    def run_mapped(self, arguments: list[str]) -> int:
        """Run a program of ours as root of the user namespace that containers get."""
        from ctrt.runtime import planner

        uid_map, gid_map = self.host.id_maps()
        plan = planner.in_user_namespace(
            tuple(arguments), ("PATH=/usr/bin:/bin",), uid_map, gid_map, self.host
        )
        with open("/dev/null", "r+b", buffering=0) as null:
            running = self.launcher.start(plan, (null.fileno(), null.fileno(), 2))
        return running.wait()

    def lowers(self, image: Image) -> list[str]:
        """The image's layers as directories for overlayfs, topmost first."""
        from ctrt.images import layers

        return layers.unpack(self.store, image, self.unpacker())

    def unpacker(self) -> Unpacker:
        """How layers are unpacked for containers here."""
        from ctrt.images.layers import Unpacker

        if self.host.privileged:
            return Unpacker("root", None)
        if self.host.maps_subordinate_ids:
            return Unpacker("subordinate", self.run_mapped)
        return Unpacker("single", self.run_mapped)

    def build(self, text: str, context: str | None = None, name: str = "", **how: Any) -> Image:
        """Build an image from the text of a Containerfile; see `building.build`."""
        from ctrt.engine.building import build

        return build(self, text, context, name, **how)

    def remove_image(self, reference: str) -> None:
        """Take a name from the store, and what nothing else needs with it."""
        self.store.remove(reference, spawn=self.unpacker().spawn)

    def destroy(self) -> None:
        """End this process's containers and remove the whole root directory."""
        import shutil

        self.close()
        if not self.host.privileged and os.path.isdir(self.root):
            # Layers and upper directories hold files of subordinate ids.
            self.run_mapped(
                ["/bin/sh", "-c", 'rm -rf "$1"/layers "$1"/containers', "sh", self.root]
            )
            self.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _layers_in_use(self) -> list[str]:
        return [chain for state in self.states() for chain in state.get("layers", [])]

    # -- containers -------------------------------------------------------------------------------

    def states(self) -> list[dict[str, Any]]:
        """What was written down about each container that somebody looks after."""
        from ctrt.runtime import state

        return state.running(self.containers)

    def recover(self) -> list[str]:
        """Clean up what crashed processes left; what could not be cleaned, in words."""
        try:
            if not os.listdir(self.containers):
                return []
        except OSError:
            return []
        return self.launcher.recover(self.containers)

    def prepare(
        self,
        reference: str | Image,
        command: Sequence[str] = (),
        options: Values | None = None,
        *,
        default_arguments: list[str] | None = None,
        progress: Callable[[Progress], object] | None = None,
        trace: bool = False,
        terminal: bool = False,
        writable: str = "",
        waits: bool = False,
    ) -> Prepared:
        """Think out the start of a container: pull and unpack what is missing, and plan.

        The image's layers are held until `Prepared.release`, which `start` calls. With `terminal`
        it makes a terminal of its own, whose master is sent over the descriptor "console". What
        it writes goes to `writable`, a directory that stays, instead of one that goes with it.
        `waits` says that its command only waits, for what will be run in it.
        """
        hold = self.store.hold()
        hold.__enter__()
        try:
            return self._prepare(
                reference,
                command,
                options,
                default_arguments=default_arguments,
                progress=progress,
                trace=trace,
                terminal=terminal,
                writable=writable,
                waits=waits,
                hold=hold,
            )
        except BaseException:
            hold.__exit__(None, None, None)
            raise

    def _prepare(
        self,
        reference: str | Image,
        command: Sequence[str],
        options: Values | None,
        *,
        default_arguments: list[str] | None,
        progress: Callable[[Progress], object] | None,
        trace: bool,
        terminal: bool,
        writable: str,
        waits: bool,
        hold: Any,
    ) -> Prepared:
        from ctrt.engine import config as configuration
        from ctrt.engine import naming
        from ctrt.engine import options as tables
        from ctrt.oci import fastjson
        from ctrt.runtime import cgroup, planner

        chosen = options or tables.RUN.parse([])
        image = (
            self.image(
                reference,
                when=chosen.pull,
                progress=progress,
                plain_http=True if chosen.tls_verify == "false" else None,
            )
            if isinstance(reference, str)
            else reference
        )
        lowers = self.lowers(image)
        if chosen.name is not None:
            name = naming.check(chosen.name)
        else:  # a plan that is only shown should be the same each time
            name = "NAME" if chosen.plan else naming.invent(self.containers)
        directory = f"{self.containers}/{name}"
        config = configuration.container(
            image.config,
            lowers,
            chosen,
            list(command),
            self.host,
            name=name,
            hostname=chosen.hostname or chosen.name or naming.host_name(image.reference),
            directory=directory,
            default_arguments=default_arguments,
        )
        groups = cgroup.plan(
            config,
            self.host,
            layout=self.layout,
            name=configuration.cgroup_name(name, directory, shown=bool(chosen.plan)),
            mark="MARK" if chosen.plan else "",
        )
        hosts = ""
        if chosen.add_host or chosen.network == "host":
            from ctrt.engine.resources import host_line, known_hosts

            hosts = "".join(map(host_line, chosen.add_host))
            hosts += known_hosts() if chosen.network == "host" else ""
        plan = planner.container(
            config,
            self.host,
            planner.Layers(tuple(lowers), directory, hosts, writable),
            subject=image.reference,
            seccomp=self._filter(config["linux"].get("seccomp")),
            trace=trace,
            cgroup=groups,
            terminal=terminal,
        )
        state = {
            "name": name,
            "image": image.reference,
            "stop": (image.config.get("config") or {}).get("StopSignal") or "TERM",
            "command": config["process"]["args"],
            "layers": [layer.chain_id for layer in image.layers],
            "cgroup": groups.state,
            "kept": configuration.kept(config, self.host.machine),
            "waits": waits,
        }
        arguments = config["process"]["args"]
        return Prepared(
            plan,
            f"{arguments[0]} in {image.reference}",
            name=name,
            named=chosen.name is not None,
            config=config,
            directory=directory,
            state=fastjson.dumps(state),
            cgroup=groups.state,
            hold=hold,
        )

    def prepare_unshare(
        self,
        options: Values,
        *,
        trace: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Prepared:
        """Think out the start of a program in new namespaces, from the options of unshare(1).

        Its environment is this process's if none is given.
        """
        from ctrt.engine import unsharing

        arguments = options.operands or [os.environ.get("SHELL") or "/bin/sh"]
        plan = unsharing.plan(options, self.host, arguments, trace=trace, environment=environment)
        return Prepared(plan, f"{arguments[0]} in new namespaces")

    def prepare_exec(
        self,
        container: Container | Found,
        command: Sequence[str],
        options: Values | None = None,
        *,
        trace: bool = False,
        terminal: bool = False,
        die: bool = False,
        apart: Values | None = None,
    ) -> Prepared:
        """Think out another process in a running container, with that one's rights.

        Of the options `env`, `workdir` and `user` count. With `die` it ends with the process that
        starts it. `apart` are options of unshare(1): it has the namespaces that these name for
        itself.
        """
        from ctrt.engine import config as configuration
        from ctrt.engine.container import Found
        from ctrt.runtime import planner
        from ctrt.runtime.group import Group

        kinds: tuple[str, ...] = ()
        more: Sequence[Step] = ()
        if apart is not None:
            from ctrt.engine import unsharing

            kinds, more = unsharing.within(apart)
        config = container.config or {}
        group = Group(container.cgroup)
        other = container if isinstance(container, Found) else None
        plan = planner.enter(
            configuration.entering(config, list(command), options, container.pid),
            planner.Target(
                container.pid,
                start_time=other.start_time if other else 0,
                cgroup=group.v2,
                cgroups_v1=group.v1_directories(),
                config=config,
                chroot=other is not None and other.chroot,
                keeps_groups=other is not None and other.keeps_groups,
                notes=other.notes if other else (),
            ),
            self.host,
            subject=container.name,
            seccomp=self._filter(config["linux"].get("seccomp")),
            trace=trace,
            terminal=terminal,
            die=die,
            kinds=kinds,
            more=more,
        )
        # The number of a process is another one tomorrow.
        where = "other namespaces" if container.name.isdecimal() else container.name
        return Prepared(plan, f"{command[0]} in {where}", name=container.name)

    def kept(self, prepared: Prepared, name: str) -> Prepared:
        """The same start as a sandbox that waits, and is found by its name as containers are."""
        from ctrt.engine import naming
        from ctrt.oci import fastjson
        from ctrt.runtime import planner

        directory = f"{self.containers}/{naming.check(name)}"
        state: dict[str, Any] = {"name": name, "image": "", "command": [], "layers": []}
        state.update(cgroup={}, kept=None, waits=True)
        return Prepared(
            planner.noted(prepared.plan, directory),
            prepared.what,
            name=name,
            directory=directory,
            state=fastjson.dumps(state),
        )

    def find(self, name: str) -> Found:
        """What is to be entered, whoever started it. Raises CtrtError.

        A container of ours by its name, or whatever else `targets.target_of` knows: a pid,
        podman:NAME, docker:NAME, pod:NAME, ...
        """
        from ctrt.engine import config as configuration
        from ctrt.engine.container import Found

        own = name.removeprefix("ctrt:")
        state = next((state for state in self.states() if state["name"] == own), None)
        if state is None or state["kept"] is None:
            from ctrt.engine import others

            return others.found(self, name)
        config = configuration.restored(state["kept"], self.host.machine)
        return Found(name, int(state["pid"]), config, state["cgroup"])

    def stop(self, name: str, pid: int, seconds: float) -> None:
        """End a running container: the image's STOPSIGNAL, and SIGKILL after that many seconds.

        That is SIGTERM where the image names none. A first process without a handler never sees
        it: then waiting helps nobody.
        """
        import errno
        import select
        import signal

        from ctrt.linux import calls, processes, signals

        said = next((state.get("stop") for state in self.states() if state["name"] == name), None)
        first = signals.number(said or "TERM") or signal.SIGTERM

        try:
            pidfd = calls.pidfd_open(pid)
        except OSError:
            return  # it has ended by itself
        try:
            if processes.is_dropped(pid, first):
                seconds = min(seconds, _GRACE_SECONDS)
            calls.pidfd_send_signal(pidfd, first)
            if not select.select([pidfd], [], [], seconds)[0]:
                calls.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 10)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise CtrtError(f"{name} cannot be stopped: {error.strerror}") from None
        finally:
            os.close(pidfd)
        self.await_removal(name)

    def await_removal(self, name: str) -> None:
        """Whoever looks after a container that ended cleans up; wait until its name is free."""
        import time

        for _ in range(500):
            if not os.path.exists(f"{self.containers}/{name}"):
                return
            time.sleep(0.01)

    def pid_of(self, target: str) -> int:
        """The pid that a target names: a pid, or a running container by its name."""
        if target.isdecimal():
            if not os.path.exists(f"/proc/{target}"):
                raise CtrtError(f"there is no process {target}")
            return int(target)
        return int(self._state(target)["pid"])

    def _state(self, name: str) -> dict[str, Any]:
        """What was written down about a running container."""
        states = self.states()
        for state in states:
            if state["name"] == name:
                return state
        names = ", ".join(state["name"] for state in states)
        raise CtrtError(
            f"there is no running container {name!r}; "
            + (f"these run: {names}" if names else "none is running")
        )

    def _filter(self, profile: dict[str, Any] | None) -> bytes | None:
        """The compiled filter of a profile; the default one is kept in memory, too."""
        from ctrt.linux import filters

        if not profile:
            return None
        if profile is not self._last_filter[0]:
            try:
                program = filters.cached(profile, f"{self.root}/cache/seccomp")
            except filters.SeccompError as error:
                raise CtrtError(str(error)) from None
            self._last_filter = (profile, program)
        return self._last_filter[1]

    def plan_text(self, prepared: Prepared) -> str:
        """The plan for a person; ROOT stands for this engine's root directory."""
        prepared.release()
        return prepared.plan.text().replace(self.root, "ROOT")

    def start(
        self,
        prepared: Prepared,
        *,
        stdin: bool = False,
        terminal: bool = False,
        step: Callable[[Stop], bool] | None = None,
    ) -> Container:
        """Carry out a plan through the launcher, with output (and input) on pipes.

        `step` is asked before each step whether to do it; no calls the start off.

        With `terminal`, which the plan must have too, all three streams are the terminal that
        the container makes. It is set up before the first instruction if the plan is one
        for tracing.
        """
        from ctrt.engine.container import Container, set_up_terminal

        if terminal:
            from ctrt.runtime import console

            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            out_read, theirs = console.pair()
            fds: tuple[int, ...] = (null, null, null, theirs)
            error_read = in_write = -1
        else:
            out_read, out_write = os.pipe()
            error_read, error_write = os.pipe()
            if stdin:
                in_read, in_write = os.pipe()
            else:
                in_read, in_write = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
            fds = (in_read, out_write, error_write)
        try:
            given = os.fstat(fds[0])
            running = self._carry_out(prepared, fds, step)
            if terminal:
                ours, out_read = out_read, -1
                out_read = console.receive(ours)
                given = set_up_terminal(out_read, running.pid)
                in_write = os.dup(out_read)
        except BaseException:
            for descriptor in (out_read, error_read, in_write):
                if descriptor >= 0:
                    os.close(descriptor)
            raise
        finally:
            prepared.release()
            for descriptor in set(fds):
                os.close(descriptor)
        return Container(
            prepared,
            running,
            out_read,
            error_read,
            in_write,
            terminal=terminal,
            stdin_identity=(given.st_dev, given.st_ino),
        )

    def _carry_out(
        self, prepared: Prepared, fds: tuple[int, ...], step: Callable[[Stop], bool] | None
    ) -> Running:
        directory, state = prepared.directory, prepared.state
        if step is None:
            return self.launcher.start(prepared.plan, fds, directory=directory, state=state)
        from ctrt.engine.following import Follower
        from ctrt.engine.prepared import Stop
        from ctrt.runtime.launcher import Launcher
        from ctrt.runtime.stepping import stepped

        self._prepare_root()
        # While it waits for an answer a helper serves nobody else.
        launcher, plan, follower = Launcher(self.containers), prepared.plan, Follower()
        names = {self.root: "ROOT"}
        if directory:
            from ctrt.engine.config import cgroup_name

            names[directory] = "NEW"
            names[cgroup_name(prepared.name, directory)] = "NAME"
            if not prepared.named:
                names[prepared.name] = "NAME"

        def asked(index: int) -> bool:
            pid = launcher.child()
            follower.look(index, pid)
            return step(Stop(plan, index, pid, follower.changes, names))

        return launcher.start(stepped(plan), fds, directory=directory, state=state, step=asked)

    def detach(self, prepared: Prepared) -> str:
        """Start a container that outlives this process; its name. Its output is kept."""
        from ctrt.engine import detached
        from ctrt.runtime.launcher import Launcher

        self._prepare_root()
        record, state = detached.begin(self.root, prepared.name, prepared.state)
        keeper = Launcher(self.containers)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            output = os.open(record.output, flags, 0o644)  # it may become the program's own
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            try:
                keeper.start(
                    prepared.plan,
                    (null, output, output),
                    directory=prepared.directory,
                    state=state,
                    detach=record.status_file,
                ).close()
            finally:
                os.close(output)
                os.close(null)
        except BaseException:
            record.remove()
            raise
        finally:
            # A start that failed must not hold the image's layers, or a helper, any longer.
            keeper.close(wait=False)
            prepared.release()
        detached.prune(self.root, {state["name"] for state in self.states()}, record)
        return prepared.name

    def run(
        self,
        reference: str,
        command: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        options: Sequence[str] = (),
        progress: Callable[[Progress], object] | None = None,
    ) -> Result:
        """Run a command in a new container and wait for it.

        `options` are those of `ctrt run`, as words. Raises ContainerError for a status that
        is not 0, and other CtrtErrors where the container cannot be started.
        """
        from ctrt.engine import options as tables

        prepared = self.prepare(reference, command, tables.RUN.parse(options), progress=progress)
        return self.start(prepared, stdin=bool(stdin)).collect(stdin).check()

    def close(self) -> None:
        """End the launcher; containers that are not detached end with it."""
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None


def default_root() -> str:
    """The root directory: CTRT_ROOT, /var/lib/ctrt for root, $XDG_DATA_HOME/ctrt for others."""
    chosen = os.environ.get("CTRT_ROOT")
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return "/var/lib/ctrt"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{home}/ctrt"


_engines: dict[str, Engine] = {}


def default_engine(root: str | None = None) -> Engine:
    """The engine of this process on that root, or on the default one."""
    path = os.path.abspath(root or default_root())
    if path not in _engines:
        _engines[path] = Engine(path)
    return _engines[path]


def close_all() -> None:
    """Close every engine of this process that `default_engine` has made."""
    while _engines:
        _engines.popitem()[1].close()


def run(reference: str, command: Sequence[str] = (), **keywords: Any) -> Result:
    """`Engine.run` of the default engine."""
    return default_engine().run(reference, command, **keywords)


def pull(reference: str, **keywords: Any) -> Image:
    """Pull an image into the default store."""
    return default_engine().image(reference, when="always", **keywords)
