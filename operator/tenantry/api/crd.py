"""Writes the CRDs from the pydantic models.

    python -m tenantry.api.crd crds/ [more folders]           writes one file for each kind
    python -m tenantry.api.crd --check crds/ [more folders]   prints what differs and fails

pydantic speaks JSON Schema, the API server a structural part of OpenAPI 3: references are inlined, titles dropped,
"X or null" becomes an optional X.  A schema with an unbounded string, list or map is refused here: CEL's cost budget
depends on the bounds, and so does what an object may weigh.
"""

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tenantry.api import AccessKey, DataRegion, Resource, Tenant, TenantTier
from tenantry.names import GROUP, VERSION

KINDS: tuple[type[Resource], ...] = (Tenant, TenantTier, DataRegion, AccessKey)
CATEGORY = "tenantry"
HEADER = "# Generated from operator/tenantry/api by `make crds`: change the models there, not this file.\n"

Schema = dict[str, Any]

_KEPT = (
    "description", "type", "format", "enum", "default", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "minProperties", "maxProperties",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
    "required", "properties", "items", "additionalProperties",
)  # fmt: skip
"""What the API server understands, in the order in which it is written."""

_API_VERSION: Schema = {"description": f"Always {GROUP}/{VERSION}.", "type": "string", "maxLength": 64}
_METADATA: Schema = {"type": "object"}


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """One JSON Schema as a structural schema; `definitions` are what its references name.

    ValueError for what has no structural form (a union of two types, say).
    """
    schema = _merged(schema, definitions)
    unknown = set(schema) - set(_KEPT) - {"title"}
    if unknown or "type" not in schema:
        raise ValueError(f"no structural schema for {schema.get('title', schema)}: {sorted(unknown) or 'no type'}")
    properties = schema.pop("properties", None)
    if properties is not None:
        schema["properties"] = {name: structural(value, definitions) for name, value in properties.items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = structural(schema[key], definitions)
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
    _settle_default(schema)
    return {key: schema[key] for key in _KEPT if key in schema}


def _merged(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Without reference and null; what stands beside a reference (a description, rules) goes before what it names."""
    schema = dict(schema)
    while True:
        options = [option for option in schema.pop("anyOf", []) if option.get("type") != "null"]
        if len(options) > 1:
            raise ValueError(f"a union has no structural schema: {schema}")
        base = dict(options[0]) if options else {}
        if "$ref" in schema:
            base = definitions[schema.pop("$ref").removeprefix("#/$defs/")]
        elif not options:
            break
        schema = {**base, **schema}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    return schema


def _settle_default(schema: Schema) -> None:
    """Keep defaults that say something.

    An object defaults to {} where something within has a default, so that `kubectl get -o yaml` shows what holds;
    null, "" and empty collections mean what absence means.
    """
    default = schema.get("default")
    if schema["type"] == "object" and isinstance(default, dict):
        within = schema.get("properties", {}).values()
        default = {} if any("default" in value for value in within) else None
    elif default in ("", [], ()):
        default = None
    if default is None:
        schema.pop("default", None)
    else:
        schema["default"] = default


def unbounded(schema: Schema, path: str = "") -> Iterator[str]:
    """The paths of strings, lists and maps without an upper bound."""
    kind = schema["type"]
    if kind == "string" and not {"maxLength", "enum"} & set(schema):
        if schema.get("format") not in ("date", "date-time"):
            yield path
    elif kind == "array":
        if "maxItems" not in schema:
            yield path
        yield from unbounded(schema["items"], f"{path}[]")
    elif kind == "object":
        if "additionalProperties" in schema:
            if "maxProperties" not in schema:
                yield path
            yield from unbounded(schema["additionalProperties"], f"{path}.*")
        for name, value in schema.get("properties", {}).items():
            yield from unbounded(value, f"{path}.{name}")


def schema_of(kind: type[Resource]) -> Schema:
    """The structural schema of a whole object.  ValueError when it is not bounded."""
    raw = kind.model_json_schema(by_alias=True)
    definitions = raw.pop("$defs", {})
    properties = raw["properties"]
    del properties["metadata"]
    schema = structural(raw, definitions)
    schema["properties"] = {
        "apiVersion": _API_VERSION,
        "kind": {"description": f"Always {kind.kind_name}.", "type": "string", "maxLength": 64},
        "metadata": _METADATA,
        **schema["properties"],
    }
    if kind.default_status is not None:
        schema["properties"]["status"]["default"] = kind.default_status
    if kind.root_rules:
        schema["x-kubernetes-validations"] = [dict(rule) for rule in kind.root_rules]
    if open_ended := list(unbounded(schema)):
        raise ValueError(f"{kind.kind_name}: give an upper bound to {', '.join(open_ended)}")
    return schema


def crd(kind: type[Resource]) -> Schema:
    """The CustomResourceDefinition of one kind."""
    schema = schema_of(kind)
    version: Schema = {"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    if "status" in schema["properties"]:
        version["subresources"] = {"status": {}}
    if kind.columns:
        version["additionalPrinterColumns"] = [
            {"name": name, "type": type_, "jsonPath": path} for name, type_, path in kind.columns
        ]
    names: Schema = {
        "kind": kind.kind_name,
        "listKind": f"{kind.kind_name}List",
        "plural": kind.plural,
        "singular": kind.kind_name.lower(),
        "categories": [CATEGORY],
    }
    if kind.short_names:
        names["shortNames"] = list(kind.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """File name to content, for all kinds."""
    return {
        f"{kind.plural}.yaml": HEADER
        + yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tenantry.api.crd", description="Write the CRDs.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    options = parser.parse_args(arguments)
    wanted = files()
    stale = False
    for folder in options.folders:
        if not options.check:
            folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.glob("*.yaml")}
        for name in sorted(there | set(wanted)):
            path = folder / name
            old, new = path.read_text() if name in there else "", wanted.get(name, "")
            if old == new:
                continue
            stale = True
            if options.check:
                sys.stdout.writelines(
                    difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(path), "wanted")
                )
            elif name in wanted:
                path.write_text(new)
            else:
                path.unlink()
    if stale and options.check:
        print("The CRDs do not match the models; run `make crds`.", file=sys.stderr)
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
