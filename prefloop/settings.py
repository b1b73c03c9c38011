"""YAML and overrides become frozen dataclasses. A key that no dataclass knows is an error that names the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from prefloop.errors import InputError

T = TypeVar("T")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError when it is missing, broken, or not a mapping."""
    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such run file: {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold settings as `key: value` lines, got a {type(value).__name__}")
    return value


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`["lr=1e-5", "lora.rank=8"]` -> `{"lr": "1e-5", "lora": {"rank": 8}}`; values are YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise InputError(f"--set takes key=value, got {pair!r}; for example --set lr=1e-5")
        *parents, last = key.strip().split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {pair!r}: the value is not YAML ({error})") from None
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        here = result.get(key)
        result[key] = merge(here, value) if isinstance(here, Mapping) and isinstance(value, Mapping) else value
    return result


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "settings") -> T:
    """A frozen dataclass from a mapping. Raises InputError that names the key, the value and what would be right."""
    check_keys(mapping, _known(cls), where)
    try:
        return TypeAdapter(cls).validate_python(dict(mapping))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {key}: {first['msg']}, got {first['input']!r}") from None


def build_together(classes: Sequence[type[Any]], mapping: Mapping[str, Any], where: str = "settings") -> list[Any]:
    """Several dataclasses from one flat mapping: each key goes to the class that has it."""
    known: dict[str, Any] = {}
    for cls in classes:
        known |= _known(cls)
    check_keys(mapping, known, where)
    return [build(cls, {k: v for k, v in mapping.items() if k in _known(cls)}, where) for cls in classes]


def check_keys(mapping: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raises InputError for the first key that is not known, and names the nearest one."""
    for key, value in mapping.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise InputError(f"{where}: unknown setting {str(key)!r}; {hint}")
        inner = _dataclass_in(known[key])
        if inner is not None and isinstance(value, Mapping):
            check_keys(value, _known(inner), f"{where}: {key}")


def check_choice(what: str, given: str, known: Sequence[str]) -> None:
    """Raises InputError, naming the nearest, when `given` is none of `known`."""
    if given not in known:
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{what}: unknown {given!r}; {hint}known: {', '.join(known)}")


def as_dict(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON values; a function, by where it stands and a hash of what it says."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if callable(value):
        return _address(value)
    return str(value) if isinstance(value, Path) else value


def _address(function: Any) -> str:
    """`module:name 1a2b3c4d`; without the hash where no source is to be had."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return name
    return f"{name} {hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def documented(cls: type[Any]) -> dict[str, tuple[str, Any]]:
    """Each setting of a dataclass with its type as written and its default (MISSING where there is none)."""
    return {
        f.name: (
            f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type)),
            f.default if f.default_factory is dataclasses.MISSING else f.default_factory(),
        )
        for f in dataclasses.fields(cls)
    }


def _known(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _dataclass_in(hint: Any) -> type[Any] | None:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((found for arg in typing.get_args(hint) if (found := _dataclass_in(arg))), None)
    return None
