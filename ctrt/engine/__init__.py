r"""What a person asks for: images, runtime and network joined.

>>> from ctrt.engine import Engine
>>> Engine().run("busybox", ["echo", "hello"]).text()
'hello\n'
"""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ctrt.engine.container import Container, Result
    from ctrt.engine.options import Values
    from ctrt.images.pull import Progress
    from ctrt.images.store import Image, Store
    from ctrt.runtime.host import Host
    from ctrt.runtime.launcher import Launcher
    from ctrt.runtime.plan import Plan

__all__ = ["Engine", "Prepared", "default_engine", "default_root", "pull", "run"]

_UNSHARE_KINDS = (
    ("user", "user"),
    ("mount", "mount"),
    ("pid", "pid"),
    ("network", "net"),
    ("uts", "uts"),
    ("ipc", "ipc"),
    ("cgroup", "cgroup"),
    ("time", "time"),
)
_ADJECTIVES = "amber brave calm clear early fresh gentle keen lucid merry noble quick quiet swift"
_NOUNS = "anchor beacon canal crane dock ferry gull harbor jetty lagoon pier quay reef sloop tide"


class Prepared:
    """A start that has been thought out but not done: the plan, and what goes with it."""

    __slots__ = ("_hold", "config", "directory", "name", "plan", "state", "what")

    def __init__(
        self,
        plan: Plan,
        what: str,
        *,
        name: str = "",
        config: dict[str, Any] | None = None,
        directory: str | None = None,
        state: str = "",
        hold: Any = None,
    ) -> None:
        self._hold = hold
        self.plan = plan
        self.what = what
        self.name = name
        self.config = config
        self.directory = directory
        self.state = state

    def release(self) -> None:
        """Let go of the image's layers: the container has started, or will not."""
        if self._hold is not None:
            self._hold.__exit__(None, None, None)
            self._hold = None


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
        with open(known, "w") as file:
            file.write("yes" if works else "no")
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
                f"there is no image {reference} in the store; pull it with: ctrt pull {reference}"
            )
        from ctrt.images.pull import pull
        from ctrt.images.transports import Options

        options = Options(insecure=bool(plain_http))
        return pull(self.store, reference, progress=progress, options=options)

    def _spawn(self, arguments: list[str]) -> int:
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

        host = self.host
        if host.privileged:
            how = layers.Unpacker("root", None)
        elif host.maps_subordinate_ids:
            how = layers.Unpacker("subordinate", self._spawn)
        else:
            how = layers.Unpacker("single", self._spawn)
        return layers.unpack(self.store, image, how)

    def build(self, text: str, context: str | None = None, name: str = "", **how: Any) -> Image:
        """Build an image from the text of a Containerfile; see `building.build`."""
        from ctrt.engine.building import build

        return build(self, text, context, name, **how)

    def remove_image(self, reference: str) -> None:
        """Take a name from the store, and what nothing else needs with it."""
        host = self.host
        self.store.remove(reference, spawn=None if host.privileged else self._spawn)

    def destroy(self) -> None:
        """End this process's containers and remove the whole root directory."""
        import shutil

        self.close()
        if not self.host.privileged and os.path.isdir(self.root):
            # Layers and upper directories hold files of subordinate ids.
            self._spawn(["/bin/sh", "-c", 'rm -rf "$1"/layers "$1"/containers', "sh", self.root])
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
    ) -> Prepared:
        """Think out the start of a container: pull and unpack what is missing, and plan.

        The image's layers are held until `Prepared.release`, which `start` calls.
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
        hold: Any,
    ) -> Prepared:
        from ctrt.engine import config as configuration
        from ctrt.engine import options as tables
        from ctrt.oci import fastjson
        from ctrt.runtime import planner

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
        # A plan that is only shown should be the same each time.
        name = chosen.name or "NAME" if chosen.plan else self._name(chosen.name)
        directory = f"{self.containers}/{name}"
        config = configuration.container(
            image.config,
            lowers,
            chosen,
            list(command),
            self.host,
            name=name,
            hostname=chosen.hostname or chosen.name or _host_name(image.reference),
            directory=directory,
            default_arguments=default_arguments,
        )
        program = self._filter(config["linux"].get("seccomp"))
        plan = planner.container(
            config,
            self.host,
            planner.Layers(tuple(lowers), directory),
            subject=image.reference,
            seccomp=program,
            trace=trace,
        )
        state = {
            "name": name,
            "image": image.reference,
            "command": config["process"]["args"],
            "layers": [layer.chain_id for layer in image.layers],
        }
        arguments = config["process"]["args"]
        return Prepared(
            plan,
            f"{arguments[0]} in {image.reference}",
            name=name,
            config=config,
            directory=directory,
            state=fastjson.dumps(state),
            hold=hold,
        )

    def prepare_unshare(self, options: Values, *, trace: bool = False) -> Prepared:
        """Think out the start of a program in new namespaces, from the options of unshare(1)."""
        from ctrt.runtime import planner

        kinds = [kind for kind, key in _UNSHARE_KINDS if getattr(options, key)]
        maps_user = options.map_root_user or options.map_current_user or options.map_auto
        if maps_user and "user" not in kinds:
            kinds.insert(0, "user")
        mount_proc = "/proc" if options.mount_proc is True else options.mount_proc
        if mount_proc and "mount" not in kinds:
            kinds.append("mount")
        host = self.host
        uid_map: tuple[tuple[int, int, int], ...] = ()
        gid_map: tuple[tuple[int, int, int], ...] = ()
        if options.map_auto:
            uid_map, gid_map = host.id_maps()
            if not host.privileged and not host.maps_subordinate_ids:
                raise CtrtError(f"--map-auto cannot be met: {host.reasons['ids']}")
        elif options.map_root_user:
            uid_map, gid_map = ((0, host.uid, 1),), ((0, host.gid, 1),)
        elif options.map_current_user:
            uid_map, gid_map = ((host.uid, host.uid, 1),), ((host.gid, host.gid, 1),)
        arguments = options.operands or [os.environ.get("SHELL") or "/bin/sh"]
        plan = planner.unshare(
            tuple(kinds),
            tuple(arguments),
            tuple(f"{key}={value}" for key, value in os.environ.items()),
            host,
            fork=options.fork,
            uid_map=uid_map,
            gid_map=gid_map,
            deny_setgroups=bool(maps_user) and not options.map_auto,
            propagation=options.propagation,
            mount_proc=mount_proc,
            directory=options.wd or os.getcwd(),
            trace=trace,
        )
        return Prepared(plan, f"{arguments[0]} in new namespaces")

    def prepare_exec(
        self,
        container: Container,
        command: Sequence[str],
        options: Values | None = None,
        *,
        trace: bool = False,
    ) -> Prepared:
        """Think out another process in a running container, with that one's rights.

        Of the options of run, `env` and `workdir` count.
        """
        from ctrt.runtime import planner

        config = container.config or {}
        process = {**config["process"], "args": list(command)}
        if options is not None:
            process["env"] = process["env"] + [e for e in options.env if "=" in e]
            process["cwd"] = options.workdir or process["cwd"]
        linux = config["linux"]
        cgroup = linux.get("cgroupsPath")
        plan = planner.enter(
            process,
            planner.Target(
                container.pid,
                cgroup=cgroup if cgroup and os.path.isdir(cgroup) else None,
                config=config,
            ),
            self.host,
            subject=container.name,
            seccomp=self._filter(linux.get("seccomp")),
            trace=trace,
        )
        return Prepared(plan, f"{command[0]} in {container.name}", name=container.name)

    def stop(self, name: str, pid: int, seconds: float) -> None:
        """End a running container: SIGTERM, and SIGKILL after that many seconds."""
        import errno
        import select
        import signal

        from ctrt.linux import calls

        try:
            pidfd = calls.pidfd_open(pid)
        except OSError:
            return  # it has ended by itself
        try:
            calls.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], seconds)[0]:
                calls.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 10)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise CtrtError(f"{name} cannot be stopped: {error.strerror}") from None
        finally:
            os.close(pidfd)
        # Whoever looks after it cleans up now; the name is free when its directory is gone.
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
        states = self.states()
        for state in states:
            if state["name"] == target:
                return int(state["pid"])
        names = ", ".join(state["name"] for state in states)
        raise CtrtError(
            f"there is no running container {target!r}; "
            + (f"there are {names}" if names else "none is running")
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

    def _name(self, wanted: str | None) -> str:
        if wanted is None:
            adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
            while True:
                first, second, *rest = os.urandom(4)
                name = (
                    f"{adjectives[first % len(adjectives)]}-{nouns[second % len(nouns)]}-"
                    f"{bytes(rest).hex()}"
                )
                if not os.path.exists(f"{self.containers}/{name}"):
                    return name
        allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
        if not wanted or wanted[0] in "_.-" or wanted.strip(allowed) or len(wanted) > 64:
            raise CtrtError(
                f"the name {wanted!r} is not letters, digits, '_', '.' or '-', at most 64, "
                "beginning with a letter or digit"
            )
        return wanted

    def plan_text(self, prepared: Prepared) -> str:
        """The plan for a person; ROOT stands for this engine's root directory."""
        prepared.release()
        return prepared.plan.text().replace(self.root, "ROOT")

    def start(
        self, prepared: Prepared, *, stdin: bool = False, terminal: bool = False
    ) -> Container:
        """Carry out a plan through the launcher, with output (and input) on pipes.

        With `terminal` all three streams are one pseudo-terminal.
        """
        from ctrt.engine.container import Container, open_terminal

        if terminal:
            out_read, in_read = open_terminal()
            out_write, error_read, error_write = os.dup(in_read), -1, os.dup(in_read)
            in_write = os.dup(out_read)
        else:
            out_read, out_write = os.pipe()
            error_read, error_write = os.pipe()
            if stdin:
                in_read, in_write = os.pipe()
            else:
                in_read, in_write = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
        given = os.fstat(in_read)
        try:
            running = self.launcher.start(
                prepared.plan,
                (in_read, out_write, error_write),
                directory=prepared.directory,
                state=prepared.state,
            )
        except BaseException:
            for descriptor in (out_read, error_read, in_write):
                if descriptor >= 0:
                    os.close(descriptor)
            raise
        finally:
            prepared.release()
            for descriptor in (in_read, out_write, error_write):
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

    def detach(self, prepared: Prepared) -> str:
        """Start a container that outlives this process; its name."""
        from ctrt.runtime.launcher import Launcher

        self._prepare_root()
        keeper = Launcher(self.containers)
        try:
            with open("/dev/null", "r+b", buffering=0) as null:
                number = null.fileno()
                keeper.start(
                    prepared.plan,
                    (number, number, number),
                    directory=prepared.directory,
                    state=prepared.state,
                    detach=True,
                ).close()
        finally:
            # A start that failed must not hold the image's layers, or a helper, any longer.
            keeper.close(wait=False)
            prepared.release()
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


def _host_name(reference: str) -> str:
    """A container's host name where none is given: that of the image, so that it is stable."""
    name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")[:63] or "container"


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
