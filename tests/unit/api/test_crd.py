"""The CRD generator: what it writes is structural, bounded and described; what it can't write it refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import Field

from tenantry.api import Resource, crd
from tenantry.api.base import ApiModel
from tests.samples import ROOT

FOLDERS = [ROOT / "crds", ROOT / "charts" / "tenantry" / "crds"]
ALL = pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: str(kind.kind_name))


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


@ALL
def test_every_field_says_what_it_is(kind: type[Resource]) -> None:
    silent = [
        f"{path}.{name}"
        for path, schema in nodes(crd.schema_of(kind))
        for name, value in schema.get("properties", {}).items()
        if not value.get("description") and name != "metadata"
    ]
    assert silent == []


@ALL
def test_schemas_are_structural(kind: type[Resource]) -> None:
    for path, schema in nodes(crd.schema_of(kind)):
        assert "type" in schema, path
        assert not {"$ref", "anyOf", "allOf", "title", "x-kubernetes-preserve-unknown-fields"} & set(schema), path
        for required in schema.get("required", ()):
            assert "default" not in schema["properties"][required], f"{path}.{required} is required and has a default"


@ALL
def test_names_are_camel_case_and_every_rule_has_a_sentence(kind: type[Resource]) -> None:
    for path, schema in nodes(crd.schema_of(kind)):
        for name in schema.get("properties", {}):
            assert name[0].islower(), path
            assert "_" not in name, path
        for rule in schema.get("x-kubernetes-validations", ()):
            assert rule["message"], path


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_the_files_are_what_the_models_say(folder: Path) -> None:
    """If this fails, run `make crds`."""
    assert {path.name: path.read_text() for path in folder.glob("*.yaml")} == crd.files()


def test_status_is_a_subresource_where_there_is_one() -> None:
    has = {kind.kind_name: "subresources" in crd.crd(kind)["spec"]["versions"][0] for kind in crd.KINDS}
    assert has == {"Tenant": True, "AccessKey": True, "TenantTier": False, "DataRegion": False}


def test_writing_and_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert crd.main(["--check", *folders]) == 1
    assert "run `make crds`" in capsys.readouterr().err
    assert crd.main(folders) == 0
    assert crd.main(["--check", *folders]) == 0
    stale = tmp_path / "b" / "tenants.yaml"
    stale.write_text(stale.read_text().replace("maxLength: 128", "maxLength: 129", 1))
    left = tmp_path / "a" / "gone.yaml"
    left.write_text("kind: Gone\n")
    assert crd.main(["--check", *folders]) == 1
    said = capsys.readouterr().out
    assert "-                maxLength: 129" in said
    assert "-kind: Gone" in said
    assert crd.main(folders) == 0
    assert not left.exists()
    assert yaml.safe_load(stale.read_text())["metadata"]["name"] == "tenants.tenantry.dev"


def kind_of(spec: type[ApiModel], **more: Any) -> type[Resource]:
    """A kind whose spec is this model."""
    fields = {"__annotations__": {"spec": spec, "kind_name": ClassVar[str], "plural": ClassVar[str]}}
    return type("Sample", (Resource,), {"kind_name": "Sample", "plural": "samples", **fields, **more})


class Inner(ApiModel):
    """Inner text."""

    size: int = Field(default=3, description="Size.")


class Silent(ApiModel):
    size: int | None = Field(default=None)


class Outer(ApiModel):
    """Outer text."""

    plain: Inner = Inner()
    told: Inner = Field(default=Inner(), description="Said here.")
    optional: Inner | None = None
    needed: Inner
    silent: Silent = Silent()
    flags: tuple[bool, ...] = Field(default=(), max_length=2)
    word: str = Field(default="", max_length=3)


def test_references_nulls_and_defaults() -> None:
    spec = crd.schema_of(kind_of(Outer))["properties"]["spec"]
    size = {"description": "Size.", "type": "integer", "default": 3}
    inner = {"type": "object", "properties": {"size": size}}
    assert spec == {
        "description": "Outer text.",
        "type": "object",
        "required": ["needed"],
        "properties": {
            "plain": {"description": "Inner text.", **inner, "default": {}},
            "told": {"description": "Said here.", **inner, "default": {}},
            "optional": {"description": "Inner text.", **inner},
            "needed": {"description": "Inner text.", **inner},
            "silent": {"type": "object", "properties": {"size": {"type": "integer"}}},
            "flags": {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
            "word": {"type": "string", "maxLength": 3},
        },
    }


class Text(ApiModel):
    text: str


class Items(ApiModel):
    items: tuple[int, ...]


class Words(ApiModel):
    words: tuple[str, ...] = Field(max_length=3)


class Labels(ApiModel):
    labels: dict[str, int]


class Either(ApiModel):
    either: int | str


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Text, "give an upper bound to .spec.text"),
        (Items, "give an upper bound to .spec.items"),
        (Words, r"give an upper bound to .spec.words\[\]"),
        (Labels, "give an upper bound to .spec.labels"),
        (Either, "a union has no structural schema"),
    ],
)
def test_what_has_no_bound_or_no_structure_is_refused(model: type[ApiModel], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        crd.schema_of(kind_of(model))
