"""POST /v1/embeddings: the tenant's embedding model, metered like any other call."""

from typing import Any

from starlette.responses import Response

from tenantry_runtime import errors, fields, tokens
from tenantry_runtime.answers import json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.provider import MAX_ANSWER, NotSentError, usage_of
from tenantry_runtime.reservation import Need, Usage
from tenantry_runtime.tokenizer import Unsaid

_FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
MAX_INPUTS = 2048
_NUMBER = {"base64": 16 / 3, "float": 24}
"""Bytes that a number of a vector may take in an answer: four in base64, or all digits of a double, and a comma."""
_AROUND = 200
"""Bytes of an answer around each vector."""
_NATIVE = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
"""Dimensions that a model answers with where it is not asked for fewer; of other models they are the tenant's own."""


def _fits(count: int, dimensions: int, encoding: str) -> None:
    """Raises 413 for so many vectors as no answer may have: it would be paid for, and then not be read."""
    size = dimensions * _NUMBER[encoding] + _AROUND
    if count * size > MAX_ANSWER:
        hint = "" if encoding == "base64" else ", or ask for encoding_format base64, which takes far less"
        raise errors.too_large(
            f"The answer would have {count} vectors of {dimensions} numbers, up to {round(count * size)} bytes, and "
            f"may have {MAX_ANSWER}: send at most {int(MAX_ANSWER / size)} inputs at a time{hint}.",
            "input",
        )


def _size(given: Any) -> tuple[int, int, int]:
    """How many inputs there are, the estimate and the bound of their tokens; raises 422 for what is no input."""
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and len(texts) <= 100_000:
        if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in texts):
            return 1, len(texts), len(texts)
        if len(texts) <= MAX_INPUTS:
            estimate, bound = 0, tokens.BOUND_PER_CALL
            for item in texts:
                if isinstance(item, str) and item:
                    estimate += tokens.estimate(item)
                    bound += tokens.byte_length(item) + tokens.PER_MESSAGE
                elif isinstance(item, list) and item and all(isinstance(number, int) for number in item):
                    estimate += len(item)
                    bound += len(item)
                else:
                    break
            else:
                return len(texts), estimate, bound
    raise errors.invalid(
        f"input must be a text, or a list of 1 to {MAX_INPUTS} texts or lists of tokens, none empty.", "input"
    )


async def create_embedding(call: Call) -> Response:
    body = await call.json()
    fields.only(body, _FIELDS)
    configuration = call.configuration
    call.model = model = fields.text(body, "model", longest=200) or configuration.embedding.model
    if model != configuration.embedding.model:
        raise errors.forbidden(
            f"The embedding model {model[:200]} is not this tenant's: use {configuration.embedding.model}.",
            "model_not_allowed",
            "model",
        )
    count, estimate, bound = _size(body.get("input"))
    sent: dict[str, Any] = {"model": model, "input": await call.service.guard.inputs(call, body["input"])}
    if (encoding := fields.text(body, "encoding_format")) is not None:
        if encoding not in ("float", "base64"):
            raise errors.invalid("encoding_format must be float or base64.", "encoding_format")
        sent["encoding_format"] = encoding
    if (dimensions := fields.integer(body, "dimensions", 1, 8192)) is not None:
        sent["dimensions"] = dimensions
    own = max(configuration.embedding.dimension, _NATIVE.get(model, 0))
    _fits(count, dimensions or own, encoding or "float")

    call.event.basic["inputs"] = count
    need = Need(kind="embeddings", model=model, input_tokens=estimate, input_bound=bound)
    reservation = await call.reserve(need)
    usage: Usage | Unsaid = Unsaid.of_embeddings(model, sent["input"])
    released = False
    try:
        answer = await call.service.provider.json("/embeddings", sent)
        usage = usage_of(answer) or usage
    except NotSentError as error:
        usage, released = Usage(), True
        raise error.error from None
    finally:
        await call.settle(reservation, usage, released=released)
    await reservation.ensure()
    return json_answer(answer, reservation.headers)


ROUTES = (
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        summary="Vectors of texts, by the tenant's embedding model.",
        scope="embeddings",
        kind="embeddings",
        action="embeddings.create",
        resource="model",
        handler=create_embedding,
        body={
            "type": "object",
            "required": ["input"],
            "properties": {
                "model": {"type": "string"},
                "input": {
                    "oneOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
                        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                        {
                            "type": "array",
                            "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                            "minItems": 1,
                        },
                    ]
                },
                "encoding_format": {"type": "string", "enum": ["float", "base64"]},
                "dimensions": {"type": "integer", "minimum": 1},
            },
        },
    ),
)
