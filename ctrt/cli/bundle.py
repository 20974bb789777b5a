"""One file for all that a command imports: a third of what importing costs is finding the files.

For each module the interpreter looks into every directory of its path, and a command imports forty.
The bundle lies among the package's compiled files and has their code in a row:

    16 digits (the length of the head), the head, the same of the index, the parts

The head is the code of this module, which the wrapper scripts run before anything is imported. A
part is one module, or several that are always imported together: who asks for one of them gets all,
by one read and without the import system, which takes as long as the code itself. The index tells
in which part a module is. Both are marshalled. As with a compiled file, the time and size of the
source say whether its code is still good: what is missing, stale or unreadable is imported from
its own file, and the command writes the bundle anew when it ends, where it may (`bundling.py`).

Nothing is imported here but what is built into the interpreter.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    Index = dict[str, tuple[int, int]]
    """By module: where its part begins (counted from the first part) and ends."""
    Entry = tuple[str, int, int, int, CodeType | None]
    """A module's source or library (the package's own from its directory, which may have been
    copied), which of the three kinds it is, when that was changed (ns), its size, and its code."""
    Part = dict[str, Entry]
    """By module; each comes after those that it imports, and a package so after its own modules."""

HEAD = 16
MODULE, PACKAGE, EXTENSION = range(3)
PACKAGE_NAME = __name__.partition(".")[0]
DIRECTORY = __file__.rpartition("/cli/")[0]
PLACE = f"{DIRECTORY}/__pycache__/bundle.{sys.implementation.cache_tag}"


class _Finder:
    """Finds what is in the bundle, and still good; the interpreter's own finders do the rest."""

    def __init__(self, inode: int, start: int, index: "Index") -> None:
        self.inode = inode
        self.start = start
        self.index = index
        self.entries: Part = {}
        self.stale = False

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> "ModuleSpec | None":
        """What the interpreter asks for each module."""
        if name not in self.entries and not self._read(name):
            return None
        source, kind = self.entries[name][:2]
        source = _absolute(source)
        make = sys.modules["_frozen_importlib"].ModuleSpec
        if kind == EXTENSION:
            library = sys.modules["_frozen_importlib_external"].ExtensionFileLoader
            spec = make(name, library(name, source), origin=source)
        else:
            spec = make(name, self, origin=source, is_package=kind == PACKAGE)
            if kind == PACKAGE:
                spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec  # type: ignore[no-any-return]

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        """The module that came along with another, or None: the interpreter makes it."""
        return sys.modules.get(spec.name)

    def exec_module(self, module: "ModuleType") -> None:
        """Run a module's code in it, unless it came along with another."""
        if "__file__" not in module.__dict__:
            source, *_, code = self.entries[module.__name__]
            module.__file__ = _absolute(source)
            exec(code, module.__dict__)  # type: ignore[arg-type]  # an extension is not loaded here

    def _read(self, name: str) -> bool:
        """Read the part of a module, and make the modules that come along."""
        where = self.index.get(name)
        part = where and self._part(where)
        if not part or not all(map(_is_good, part.values())):
            self.stale |= where is not None or name.startswith(f"{PACKAGE_NAME}.")
            for member in part or (name,):
                self.index.pop(member, None)
            return False
        self.entries.update(part)
        if len(part) > 1:
            self._make([m for m, e in part.items() if m not in sys.modules and e[1] != EXTENSION])
        return True

    def _part(self, where: "tuple[int, int]") -> "Part | None":
        try:
            begin, end = where
            # Not kept open, since a caller may hand on the descriptors from 3.
            file = posix.open(PLACE, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                if posix.fstat(file).st_ino == self.inode:
                    return marshal.loads(posix.pread(file, end - begin, self.start + begin))  # type: ignore[no-any-return]
            finally:
                posix.close(file)
        except (OSError, EOFError, ValueError, TypeError):
            pass
        return None

    def _make(self, names: list[str]) -> None:
        """What the import system does with modules, as far as it counts for ours.

        They are made before any is run: a package can import its own modules, which it is part of.
        """
        for name in sorted(names):
            spec = self.find_spec(name)
            assert spec is not None  # its part has been read
            sys.modules[name] = module = type(sys)(name)
            module.__spec__ = spec
            module.__loader__ = self  # type: ignore[assignment]
            module.__package__ = spec.parent
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations
            package, _, own = name.rpartition(".")
            if package:
                if package not in sys.modules:
                    __import__(package)
                setattr(sys.modules[package], own, module)
        try:
            while names:
                self.exec_module(sys.modules[names[0]])
                del names[0]
        finally:
            for name in names:
                del sys.modules[name]  # one that failed, and those that it was to be followed by


def _is_good(entry: "Entry") -> bool:
    try:
        now = posix.stat(_absolute(entry[0]))
    except OSError:
        return False
    return now.st_mtime_ns == entry[2] and now.st_size == entry[3]


def _absolute(source: str) -> str:
    return source if source[0] == "/" else f"{DIRECTORY}/{source}"


_finder: "_Finder | None" = None


def install(file: int) -> None:
    """Import from the bundle from now on; `file` has been read up to its index."""
    global _finder
    length = int(posix.read(file, HEAD))
    index = marshal.loads(posix.read(file, length))
    start = posix.lseek(file, 0, 1)
    _finder = _Finder(posix.fstat(file).st_ino, start, index)
    sys.meta_path.insert(0, _finder)


def renew() -> None:
    """Write the bundle if there is none, or if this process met what is not in it.

    Only where the wrapper scripts look for it: an editable install does without.
    """
    if _finder is not None and not _finder.stale:
        return
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    place = f"{sys.executable.rpartition('/bin/')[0]}/lib/{version}/site-packages"
    if f"{place}/{PACKAGE_NAME}" == DIRECTORY:
        try:
            from ctrt.cli import bundling

            bundling.write()
        except Exception:
            pass  # the package belongs to somebody else, or a source is broken: it must not matter
