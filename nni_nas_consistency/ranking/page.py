"""What all HTML pages share: the templates, and how settings become text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str) -> Template:
    """Return a template of the package; what it is given is escaped, what it is not given is an error."""
    environment = Environment(
        loader=PackageLoader("nni_nas_consistency", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and text of every value; one inside another mapping is named by both, such as `checkpoint recipe`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name} ")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", json.dumps(json_value(value), ensure_ascii=False)
        else:
            yield f"{prefix}{name}", str(value)


def json_value(value: object) -> object:
    """Return `value` as JSON can express it; other types, and numbers that are not finite, become text."""
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
