"""``model_config.yaml`` as plain values: read as NeMo reads it (OmegaConf's YAML), nothing run."""

from __future__ import annotations

import re
from typing import Any

import yaml

_LARGEST = 8_000_000  # bytes; half a million for 13,087 pieces
_NODES = 500_000
_DEPTH = 50
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}")
"""An OmegaConf interpolation of another value. Resolvers (``${oc.env:HOME}``) are none of a checkpoint's business."""


class ConfigError(ValueError):
    """The configuration cannot be read; the text says why, and becomes part of a line."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with OmegaConf's three differences: ``1e-5`` is a number, dates are text, a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise ConfigError(f"it has the key {key!r} twice")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:_\d+)*[eE][-+]?\d+$"), list("-+0123456789")
)


def read_config(data: bytes) -> dict[str, Any]:
    """The configuration, interpolations resolved.

    Raises:
        ConfigError: no YAML mapping, larger than any, with anchors or tags, or an interpolation that leads nowhere.
    """
    if len(data) > _LARGEST:
        raise ConfigError(f"it has {len(data):,} bytes")
    try:
        text = data.decode("utf-8")
        _check_events(text)
        config = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe one
    except yaml.YAMLError as error:
        raise ConfigError(f"it is no YAML ({' '.join(str(error).split())[:120]})") from error
    except (UnicodeDecodeError, OverflowError, RecursionError, TypeError) as error:
        raise ConfigError(f"it is no YAML ({str(error)[:120]})") from error
    except ValueError as error:
        raise ConfigError(str(error)[:160]) from error
    if not isinstance(config, dict):
        raise ConfigError("it is no mapping")
    resolved: dict[str, Any] = _Resolver(config).value(config, ())
    return resolved


def _check_events(text: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH or count > _NODES:
            raise ConfigError("it is deeper or longer than any model's")
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"it uses the YAML anchor {event.anchor!r}, which NeMo does not write")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!" and tag not in _CORE_TAGS:
            raise ConfigError(f"it uses the YAML tag {tag!r}; a configuration holds plain values only")


class _Resolver:
    """Replaces interpolations, and counts what it makes: a few lines can ask for terabytes."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._room = 4 * _LARGEST  # characters of text, and 64 for each value

    def value(self, value: Any, path: tuple[str, ...]) -> Any:
        """The value without interpolations; ``path`` names those that led here."""
        self._room -= 64 + (len(value) if isinstance(value, str) else 0)
        if self._room < 0:
            raise ConfigError("its interpolations make it larger than any model's")
        if isinstance(value, dict):
            return {key: self.value(each, path) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, path) for each in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return self._follow(whole[1], path)
        text = _REFERENCE.sub(lambda found: str(self._follow(found[1], path)), value)
        if "${" in _REFERENCE.sub("", value):
            raise ConfigError(f"{value[:80]!r} is no plain interpolation; write the value itself there")
        self._room -= len(text)
        return text

    def _follow(self, name: str, path: tuple[str, ...]) -> Any:
        if name in path or len(path) > _DEPTH:
            raise ConfigError(f"the interpolation ${{{name}}} leads back to itself")
        keys = name.split(".")
        # Training configurations have the model under `model`; a checkpoint's is the model's own.
        places = [keys] if keys[0] in self._root else [keys, keys[1:]] if keys[0] == "model" else [keys]
        for place in places:
            found: Any = self._root
            for key in place:
                found = found.get(key, ...) if isinstance(found, dict) else ...
            if found is not ... and place:
                return self.value(found, (*path, name))
        raise ConfigError(f"the interpolation ${{{name}}} names nothing that is there")
