"""One file for all that a command imports: a third of what importing costs is finding the files.

For each module the interpreter looks into every directory of its path, and a command imports sixty.
The bundle lies among the package's compiled files and has their code in a row:

    16 digits (the length of the head), the head, the index, the code of each module

The head is the code of this module, which the wrapper scripts run before anything is imported. The
index is a marshalled dictionary of `Index`. As with a compiled file, the time and size of the
source say whether its code is still good: what is missing, stale or unreadable is imported from
its own file, and the command writes the bundle anew when it ends, where it may.

Nothing is imported here but what is built into the interpreter, until the bundle is written.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    Index = dict[str, tuple[str, int, int, int, int, int]]
    """By module: its source or library (the package's own from its directory, which may have been
    copied), which of the three kinds it is, when that was changed (ns) and its size, and where its
    code begins (counted from the first code) and ends."""

_HEAD = 16
_MODULE, _PACKAGE, _EXTENSION = range(3)
_PACKAGE_NAME = __name__.partition(".")[0]
_DIRECTORY = __file__.rpartition("/cli/")[0]
_PLACE = f"{_DIRECTORY}/__pycache__/bundle.{sys.implementation.cache_tag}"

# Of the standard library, what is neither built in nor frozen; what an interpreter has built in
# stays out of its bundle.
_LIBRARY = "__future__ _ctypes _json _sha2 _sha256 _socket binascii fcntl math select".split()


class _Finder:
    """Finds what is in the bundle, and still good; the interpreter's own finders do the rest."""

    def __init__(self, inode: int, start: int, index: "Index") -> None:
        self.inode = inode
        self.start = start
        self.index = index
        self.stale = False

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> "ModuleSpec | None":
        """What the interpreter asks for each module."""
        found = self.index.get(name)
        if found is None:
            self.stale |= name.startswith(f"{_PACKAGE_NAME}.")
            return None
        source, kind, time, size, _, _ = found
        source = _absolute(source)
        try:
            now = posix.stat(source)
            good = now.st_mtime_ns == time and now.st_size == size
        except OSError:
            good = False
        if not good:
            self.stale = True
            return None
        make = sys.modules["_frozen_importlib"].ModuleSpec
        if kind == _EXTENSION:
            library = sys.modules["_frozen_importlib_external"].ExtensionFileLoader
            spec = make(name, library(name, source), origin=source)
        else:
            spec = make(name, self, origin=source, is_package=kind == _PACKAGE)
            if kind == _PACKAGE:
                spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec  # type: ignore[no-any-return]

    def create_module(self, _spec: object) -> None:
        """Leave it to the interpreter."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run a module's code in it."""
        source, _, _, _, begin, end = self.index[module.__name__]
        module.__file__ = source = _absolute(source)
        exec(self._code(source, begin, end), module.__dict__)

    def _code(self, source: str, begin: int, end: int) -> "CodeType":
        try:
            # Not kept open, since a caller may hand on the descriptors from 3.
            file = posix.open(_PLACE, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                if posix.fstat(file).st_ino == self.inode:
                    code = marshal.loads(posix.pread(file, end - begin, self.start + begin))
                    if isinstance(code, type(install.__code__)):
                        return code
            finally:
                posix.close(file)
        except (OSError, EOFError, ValueError, TypeError):
            pass
        self.stale = True
        with open(source, "rb") as text:
            return compile(text.read(), source, "exec", dont_inherit=True)


def _absolute(source: str) -> str:
    return source if source[0] == "/" else f"{_DIRECTORY}/{source}"


_finder: "_Finder | None" = None


def install(file: int) -> None:
    """Import from the bundle from now on; `file` has been read up to its index."""
    global _finder
    length = int(posix.read(file, _HEAD))
    index = marshal.loads(posix.read(file, length))
    start = posix.lseek(file, 0, 1)
    _finder = _Finder(posix.fstat(file).st_ino, start, index)
    sys.meta_path.insert(0, _finder)


def renew() -> None:
    """Write the bundle if there is none, or if this process met what is not in it.

    Only where the wrapper scripts look for it: an editable install does without.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    place = f"{sys.executable.rpartition('/bin/')[0]}/lib/{version}/site-packages"
    looked_for = f"{place}/{_PACKAGE_NAME}" == _DIRECTORY
    if looked_for and (_finder is None or _finder.stale):
        try:
            write()
        except OSError:
            pass  # the package belongs to somebody else


def write() -> None:
    """Write the bundle, whole or not at all. OSError where that is not possible."""
    import os

    partial = f"{_PLACE}.{os.getpid()}"
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(file, 0o644)  # for every user, as the package is
        with os.fdopen(file, "wb") as target:
            index, codes = _collected()
            head = marshal.dumps(_code_of(__name__, __file__))
            for part in (head, marshal.dumps(index)):
                target.write(b"%016d" % len(part) + part)
            target.write(b"".join(codes))
        os.rename(partial, _PLACE)
    except BaseException:
        os.unlink(partial)
        raise


def _collected() -> "tuple[Index, list[bytes]]":
    import os
    from importlib.machinery import PathFinder

    sources = {}
    for directory, _, files in os.walk(_DIRECTORY):
        package = _PACKAGE_NAME + directory[len(_DIRECTORY) :].replace("/", ".")
        for file in files:
            if file == "__init__.py":
                sources[package] = f"{directory}/{file}"
            elif file.endswith(".py"):
                sources[f"{package}.{file[:-3]}"] = f"{directory}/{file}"
    for name in _LIBRARY:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            sources[name] = spec.origin
    index: Index = {}
    codes = []
    length = 0
    for name, source in sorted(sources.items()):
        found, code, kind = os.stat(source), b"", _EXTENSION
        if source.endswith(".py"):
            kind = _PACKAGE if source.endswith("/__init__.py") else _MODULE
            code = marshal.dumps(_code_of(name, source))
        place, end = source.removeprefix(f"{_DIRECTORY}/"), length + len(code)
        index[name] = (place, kind, found.st_mtime_ns, found.st_size, length, end)
        codes.append(code)
        length += len(code)
    return index, codes


def _code_of(name: str, source: str) -> "CodeType":
    """The code of a source, from its compiled file where that is good."""
    from importlib.machinery import SourceFileLoader

    code = SourceFileLoader(name, source).get_code(name)
    assert code is not None  # a source file has code
    return code
