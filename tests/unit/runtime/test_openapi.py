"""The OpenAPI document is the service: nothing is served that it leaves out, nothing is in it that is not served."""

import json
from typing import get_args

from starlette.routing import Route

from tenantry_runtime.app import create_app
from tenantry_runtime.config import Credentials, Milvus, Postgres, Provider, Scope
from tenantry_runtime.endpoint import Endpoint, Open
from tenantry_runtime.openapi import document
from tenantry_runtime.routes import ROUTES
from tenantry_runtime.service import Service

PUBLIC = {
    "/",
    "/openapi.json",
    "/livez",
    "/readyz",
    "/dashboard/sign-in",
    "/dashboard/sign-out",
    "/dashboard/static/{name}",
}


async def test_the_document_and_the_app_have_the_same_routes() -> None:
    credentials = Credentials(
        postgres=Postgres(host="db", database="d", user="u", password="p", schema_name="s"),
        milvus=Milvus(uri="http://m", collection="c", tag="t"),
        provider=Provider(base_url="http://p/v1", api_key="k"),
    )
    app = create_app(Service(credentials))
    served = set()
    for route in app.routes:
        assert isinstance(route, Route)
        served |= {(method, route.path) for method in route.methods or ()}
    described = {
        (method.upper(), path) for path, methods in json.loads(document())["paths"].items() for method in methods
    }
    assert served == described
    assert len(described) == len(ROUTES)


def test_every_route_but_the_public_ones_asks_for_a_key() -> None:
    paths = json.loads(document())["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            assert ("security" in operation) is (path not in PUBLIC), path
    assert {route.path for route in ROUTES if isinstance(route, Open)} == PUBLIC
    for route in ROUTES:
        if isinstance(route, Endpoint):
            assert route.scope in get_args(Scope) or route.path.startswith("/v1/models")


def test_the_document_is_well_formed() -> None:
    parsed = json.loads(document())
    identities = [operation["operationId"] for methods in parsed["paths"].values() for operation in methods.values()]
    assert len(identities) == len(set(identities))
    for path, methods in parsed["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"].endswith(".")
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert all(f"{{{name}}}" in path for name in named)
            assert len(named) == path.count("{")
            if method == "post" and not path.endswith("/cancel"):  # which says all by its path
                assert operation["requestBody"]["content"]
