"""Values that never change.

``dataclass(frozen=True)`` compiles six methods for every class, half a millisecond each time; a run loads fifty of them
before it does anything. Here all classes share what the methods do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(made: type[Made]) -> type[Made]:
    """Make a class a frozen dataclass: what ``dataclass(frozen=True)`` promises holds, and the same functions work."""
    kind: Any = dataclass(init=False, repr=False, eq=False)(made)
    parts = fields(kind)
    names = tuple(part.name for part in parts)
    shown = [part.name for part in parts if part.repr]
    compared = _getter(part.name for part in parts if part.compare)
    hashed = _getter(part.name for part in parts if (part.compare if part.hash is None else part.hash))
    missing = {part.name: _default(part) for part in parts}

    def initialise(self: Any, /, *given: Any, **named: Any) -> None:
        held = self.__dict__
        held.update(zip(names, given, strict=False), **named)
        if len(held) != len(given) + len(named):
            raise TypeError(f"{kind.__name__} takes each of {', '.join(names)} once")
        if held.keys() != missing.keys():
            for name in missing.keys() - held.keys():
                held[name] = missing[name]()
            if len(held) > len(names):
                raise TypeError(f"{kind.__name__} has no {', '.join(held.keys() - missing.keys())}")

    def represented(self: Any) -> str:
        return f"{kind.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def equals(self: Any, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def hash_of(self: Any) -> int:
        return hash(hashed(self))

    kind.__init__, kind.__setattr__, kind.__delattr__ = initialise, _set, _delete
    for name, method in (("__repr__", represented), ("__eq__", equals), ("__hash__", hash_of)):
        # What a class says of itself stays. One that says when it is equal has no hash, until it says that too.
        if kind.__dict__.get(name) is None:
            setattr(kind, name, method)
    return made


def _getter(names: Iterable[str]) -> Callable[[Any], Any]:
    chosen = tuple(names)
    return attrgetter(*chosen) if chosen else lambda _: ()


def _default(part: Any) -> Callable[[], Any]:
    if part.default_factory is not MISSING:
        made: Callable[[], Any] = part.default_factory
        return made
    if part.default is not MISSING:
        return lambda: part.default

    def absent() -> NoReturn:
        raise TypeError(f"{part.name} is missing")

    return absent


def _set(self: object, name: str, _value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to {name!r} of {type(self).__qualname__}")


def _delete(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete {name!r} of {type(self).__qualname__}")
