"""Frozen dataclasses that are cheap to define.

``dataclass(frozen=True)`` compiles six methods for every class, half a millisecond each, and a run loads fifty classes
before it does anything. Here all classes share the methods' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_Class]) -> type[_Class]:
    """Make a class a frozen dataclass. It behaves like ``dataclass(frozen=True)``, and works with the same functions.

    :raises TypeError: if a field is an ``InitVar`` or has ``init=False``; those are not supported. Also if a field
        without a default follows one with a default.
    """
    kind: Any = dataclass(init=False, repr=False, eq=False)(cls)
    members = fields(kind)
    _refuse_unsupported(kind)
    positional = tuple(member.name for member in members if not member.kw_only)
    visible = [member.name for member in members if member.repr]
    comparable = _getter(member.name for member in members if member.compare)
    hashable = _getter(member.name for member in members if (member.compare if member.hash is None else member.hash))
    defaults = {member.name: _default(member) for member in members}
    post_init = getattr(kind, "__post_init__", None)

    def init(self: Any, /, *args: Any, **kwargs: Any) -> None:
        values = self.__dict__
        values.update(zip(positional, args, strict=False), **kwargs)
        if len(values) != len(args) + len(kwargs):
            raise TypeError(f"{kind.__name__} takes each of {', '.join(positional)} once")
        if values.keys() != defaults.keys():
            for name in defaults.keys() - values.keys():
                values[name] = defaults[name]()
            if len(values) > len(defaults):
                raise TypeError(f"{kind.__name__} has no {', '.join(values.keys() - defaults.keys())}")
        if post_init:
            post_init(self)

    def representation(self: Any) -> str:
        return f"{kind.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in visible)})"

    def equals(self: Any, other: object) -> bool:
        return comparable(self) == comparable(other) if other.__class__ is self.__class__ else NotImplemented

    def hash_of(self: Any) -> int:
        return hash(hashable(self))

    kind.__init__, kind.__setattr__, kind.__delattr__ = init, _set, _delete
    for name, method in (("__repr__", representation), ("__eq__", equals), ("__hash__", hash_of)):
        # A class keeps the methods that it defines. If it defines only equality, it has no hash.
        if kind.__dict__.get(name) is None:
            setattr(kind, name, method)
    return cls


def _refuse_unsupported(kind: Any) -> None:
    # Under ``from __future__ import annotations`` an annotation is a string; elsewhere it is the class InitVar itself.
    pseudo = [name for name, annotation in kind.__annotations__.items() if "InitVar" in str(annotation)]
    if unsupported := pseudo + [member.name for member in fields(kind) if not member.init]:
        raise TypeError(f"@frozen does not support InitVar and init=False ({kind.__name__}: {', '.join(unsupported)})")
    optional = [
        (member.default, member.default_factory) != (MISSING, MISSING) for member in fields(kind) if not member.kw_only
    ]
    if optional != sorted(optional):
        raise TypeError(f"a field without a default follows one with a default ({kind.__name__})")


def _getter(names: Iterable[str]) -> Callable[[Any], Any]:
    path = tuple(names)
    return attrgetter(*path) if path else lambda _: ()


def _default(member: Any) -> Callable[[], Any]:
    if member.default_factory is not MISSING:
        factory: Callable[[], Any] = member.default_factory
        return factory
    if member.default is not MISSING:
        return lambda: member.default

    def absent() -> NoReturn:
        raise TypeError(f"{member.name} is missing")

    return absent


def _set(self: object, name: str, _value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to {name!r} of {type(self).__qualname__}")


def _delete(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete {name!r} of {type(self).__qualname__}")
