"""Frozen records that cost nothing to import.

`NamedTuple` here has the class syntax, the equality and the look of `typing.NamedTuple`, so a
type checker is shown that one; but typing imports collections, re and functools, which is
several times what a container's start may spend on imports:

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from typing import NamedTuple
    else:
        from ctrt.linux.values import NamedTuple
"""

from __future__ import annotations

from _operator import itemgetter  # operator's own accelerator: built in, nothing to load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


class NamedTuple(tuple):  # type: ignore[type-arg]
    """A tuple whose members have the names (and defaults) that the class body annotates."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _defaults: dict[str, Any] = {}  # noqa: RUF012  (replaced by each subclass, never changed)

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
        for index, name in enumerate(cls._fields):
            setattr(cls, name, property(itemgetter(index)))

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Members by position or by name."""
        if named or len(values) != len(cls._fields):
            rest = cls._fields[len(values) :]
            unknown = set(named) - set(rest)
            missing = [name for name in rest if name not in named and name not in cls._defaults]
            if unknown or missing or len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__}() takes {', '.join(cls._fields)}")
            values += tuple(named[n] if n in named else cls._defaults[n] for n in rest)
        return tuple.__new__(cls, values)

    # All members at once, unchecked: for records that are made by the thousand.
    _make = classmethod(tuple.__new__)  # type: ignore[var-annotated]

    def __repr__(self) -> str:
        members = ", ".join(
            f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)
        )
        return f"{type(self).__name__}({members})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def _replace(self, **changes: Any) -> Self:
        """The same record with some members changed."""
        return type(self)(**{**dict(zip(self._fields, self, strict=True)), **changes})
