"""GET /v1/models: the models that this tenant may use."""

from typing import Any

from starlette.responses import Response

from tenantry_runtime import errors
from tenantry_runtime.answers import json_answer, list_of
from tenantry_runtime.call import Call
from tenantry_runtime.config import Configuration
from tenantry_runtime.endpoint import Endpoint


def _names(configuration: Configuration) -> list[str]:
    """Those that are allowed and have a price: the others are refused, so they are not offered."""
    names = (*configuration.allowed_models, configuration.embedding.model)
    return [name for name in dict.fromkeys(names) if name in configuration.prices]


def _object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "provider"}


async def list_models(call: Call) -> Response:
    return json_answer(list_of([_object(name) for name in _names(call.configuration)]))


async def get_model(call: Call) -> Response:
    name = call.request.path_params["model"]
    if name not in _names(call.configuration):
        raise errors.not_found("model")
    return json_answer(_object(name))


ROUTES = (
    Endpoint(
        method="GET",
        path="/v1/models",
        summary="List the models that this tenant may use.",
        scope=None,
        kind="models",
        action="models.list",
        resource="model",
        handler=list_models,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        summary="One model.",
        scope=None,
        kind="models",
        action="models.retrieve",
        resource="model",
        handler=get_model,
    ),
)
