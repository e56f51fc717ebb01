"""POST /v1/responses: OpenAI's newer API, on the way of a chat request: the same prompt, limits and ledger."""

from starlette.responses import Response

from tenantry_runtime import completion, responses_request
from tenantry_runtime.answers import json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.responses_answer import Answer, ResponseEvents
from tenantry_runtime.streaming import EventStream
from tenantry_runtime.threads import Said


async def create_response(call: Call) -> Response:
    request = responses_request.read(await call.json(), call.configuration)
    prepared = await completion.prepare(call, request.chat)
    thread = prepared.thread
    answer = Answer(request, prepared.hits, thread.answer_id if thread else "")
    if thread:
        thread.shape = answer.shape
    if request.chat.stream:
        events = ResponseEvents(answer).events(completion.stream(call, prepared))
        return await EventStream.started(events, prepared.headers)
    made = await completion.whole(call, prepared)
    said = Said.of(made)
    response = answer.finished(said, answer.output(said), made.get("usage"))
    return json_answer({**response, "tenantry": made["tenantry"]}, prepared.headers)


_TOOL = {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["function", "file_search"]}}}

ROUTES = (
    Endpoint(
        method="POST",
        path="/v1/responses",
        summary="A response to a text or items, from the tenant's documents, whole or as a stream.",
        scope="chat",
        kind="chat",
        action="responses.create",
        resource="model",
        handler=create_response,
        answer_types=("application/json", "text/event-stream"),
        body={
            "type": "object",
            "required": ["input"],
            "properties": {
                "model": {"type": "string", "description": "One of GET /v1/models; default: the tenant's."},
                "input": {
                    "oneOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "array", "minItems": 1, "items": {"type": "object"}},
                    ]
                },
                "instructions": {"type": ["string", "null"], "description": "Come after the tenant's own prompt."},
                "conversation": {
                    "oneOf": [
                        {"type": "string"},
                        {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
                    ]
                },
                "tools": {"type": "array", "maxItems": 128, "items": _TOOL},
                "text": {"type": "object", "properties": {"format": {"type": "object"}}},
                "stream": {"type": "boolean"},
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "top_p": {"type": "number", "minimum": 0, "maximum": 1},
                "max_output_tokens": {"type": "integer", "minimum": 1},
            },
        },
    ),
)
