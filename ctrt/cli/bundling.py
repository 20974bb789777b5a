"""How the bundle of `bundle.py` is written: by the first command that misses something in it."""

from __future__ import annotations
import __future__

import ast
import marshal
import os
from importlib.machinery import PathFinder, SourceFileLoader

from ctrt.cli.bundle import (
    DIRECTORY,
    EXTENSION,
    HEAD,
    MODULE,
    PACKAGE,
    PACKAGE_NAME,
    PLACE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

    from ctrt.cli.bundle import Entry, Index, Part

_BUNDLE = f"{PACKAGE_NAME}.cli.bundle"

# Of the standard library, what is neither built in nor frozen; what an interpreter has built in
# stays out of its bundle.
_LIBRARY = "__future__ _ctypes _json _sha2 _sha256 _socket binascii fcntl math select".split()

# What is imported together, each with what it imports itself and no part before it has. A name too
# few costs a read of its own, one too many an import for nothing: so a part has no more than all
# who ask for one of its modules need, be it `ctrt` or `ctrt-runtime`.
_TOGETHER = (
    "errors cli linux oci runtime",
    "oci.fastjson linux.birth",
    "linux.cgroups",
    "cli.runtime.main cli.runtime.verbs runtime.existing runtime.group",
    "linux.ids",
    "runtime.executor",
    "runtime.host runtime.plan",
    "runtime.failure",
    "runtime.planner.process runtime.operations.stand_in",
    "runtime.cgroup_operations",
    "runtime.undoing",
    "runtime.starting runtime.waiting oci.checking oci.process",
    "oci.rules oci.spec",
    "runtime.creating runtime.planner.containers runtime.cgroup",
    "cli.runtime.foreground",
    "cli.runtime.entering runtime.entering runtime.planner.entering",
)


def write() -> None:
    """Write the bundle, whole or not at all. OSError where that is not possible."""
    partial = f"{PLACE}.{os.getpid()}"
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(file, 0o644)  # for every user, as the package is
        with os.fdopen(file, "wb") as target:
            sources = _sources()
            index, parts = _collected(sources)
            head = marshal.dumps(_lean(sources[_BUNDLE]))
            for data in (head, marshal.dumps(index)):
                target.write(f"{len(data):0{HEAD}}".encode() + data)
            target.write(b"".join(parts))
        os.rename(partial, PLACE)
    except BaseException:
        os.unlink(partial)
        raise


def _sources() -> dict[str, str]:
    """The file of each module that can be in the bundle."""
    found = {}
    for directory, _, files in os.walk(DIRECTORY):
        package = PACKAGE_NAME + directory[len(DIRECTORY) :].replace("/", ".")
        for file in files:
            if file == "__init__.py":
                found[package] = f"{directory}/{file}"
            elif file.endswith(".py"):
                found[f"{package}.{file[:-3]}"] = f"{directory}/{file}"
    for name in _LIBRARY:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            found[name] = spec.origin
    return found


def _collected(sources: dict[str, str]) -> tuple[Index, list[bytes]]:
    groups: list[list[str]] = []
    grouped: dict[str, None] = {_BUNDLE: None}  # it is there before all others
    for roots in _TOGETHER:
        before = len(grouped)
        for root in roots.split():
            _follow(f"{PACKAGE_NAME}.{root}", sources, grouped)
        groups.append(list(grouped)[before:])
    groups += [[name] for name in sorted(sources) if name not in grouped]
    index: Index = {_BUNDLE: (0, 0)}
    parts = []
    length = 0
    for group in groups:
        part: Part = {name: _entry(name, sources[name], lean=name in grouped) for name in group}
        data = marshal.dumps(part)
        index.update(dict.fromkeys(group, (length, length + len(data))))
        parts.append(data)
        length += len(data)
    return index, parts


def _follow(
    name: str, sources: dict[str, str], found: dict[str, None], path: tuple[str, ...] = ()
) -> None:
    """Add a module to those found, after what it imports at once."""
    if name in found or name in path or name not in sources:
        return
    path += (name,)
    _follow(name.rpartition(".")[0], sources, found, path)
    if sources[name].endswith(".py"):
        for node in _at_once(_tree(sources[name]).body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    _follow(alias.name, sources, found, path)
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                for alias in node.names:
                    _follow(f"{node.module}.{alias.name}", sources, found, path)
                _follow(node.module or "", sources, found, path)
    found[name] = None


def _at_once(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, without those that depend on something."""
    for node in body:
        yield from _at_once(node.body) if isinstance(node, ast.Try) else (node,)


def _entry(name: str, source: str, *, lean: bool) -> Entry:
    status, code, kind = os.stat(source), None, EXTENSION
    if source.endswith(".py"):
        kind = PACKAGE if source.endswith("/__init__.py") else MODULE
        code = _lean(source) if lean else SourceFileLoader(name, source).get_code(name)
    place = source.removeprefix(f"{DIRECTORY}/")
    return place, kind, status.st_mtime_ns, status.st_size, code


def _tree(source: str) -> ast.Module:
    with open(source, "rb") as file:
        return ast.parse(file.read(), source)


def _lean(source: str) -> CodeType:
    """A source's code without what no command looks at, a quarter of what there is to read."""
    tree = ast.fix_missing_locations(_Lean().visit(_tree(source)))
    flags = __future__.annotations.compiler_flag
    return compile(tree, source, "exec", flags, dont_inherit=True)  # type: ignore[no-any-return]


class _Lean(ast.NodeTransformer):
    """Takes out docstrings, and annotations but those of classes, which can be their fields."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        body: list[ast.stmt] = []
        for child in node.body:
            if isinstance(child, ast.ImportFrom) and child.module == "__future__":
                continue  # the only one of ours is a flag of the compiler's
            if isinstance(child, ast.AnnAssign):
                if child.value is not None:
                    body.append(ast.copy_location(ast.Assign([child.target], child.value), child))
                continue
            body.append(child)
        node.body = body
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def _without_docstring(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.AST:
        if node.body and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
        return self.generic_visit(node)
