"""GET /v1/prompt: the system prompt as it is resolved for this tenant."""

from starlette.responses import Response

from tenantry_runtime import prompt
from tenantry_runtime.answers import json_answer
from tenantry_runtime.audit import prompt_digest
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Endpoint


async def get_prompt(call: Call) -> Response:
    configuration = call.configuration
    text = prompt.system_prompt(configuration)
    return json_answer(
        {
            "object": "prompt",
            "template": configuration.prompt.template,
            "variables": {
                "tenantName": " ".join(configuration.display_name.split()),
                "tenantTier": configuration.tier,
                "customInstructions": configuration.prompt.custom_instructions,
            },
            "instructions": prompt.instructions(configuration),
            "guard": prompt.guard(configuration),
            "text": text,
            "digest": prompt_digest(configuration),
        }
    )


ROUTES = (
    Endpoint(
        method="GET",
        path="/v1/prompt",
        summary="The tenant's system prompt as it is resolved now, without a question's documents.",
        scope="admin",
        kind="prompt",
        action="prompt.retrieve",
        resource="prompt",
        handler=get_prompt,
        answer={
            "type": "object",
            "required": ["template", "variables", "instructions", "guard", "text", "digest"],
            "properties": {
                "object": {"const": "prompt"},
                "template": {"type": "string"},
                "variables": {"type": "object", "additionalProperties": {"type": "string"}},
                "instructions": {"type": "string", "description": "What the template and the instructions say."},
                "guard": {"type": "string", "description": "The lines that come last."},
                "text": {"type": "string", "description": "The whole; found documents stand before the guard's lines."},
                "digest": {"type": "string", "description": "As the audit of each call names it."},
            },
        },
    ),
)
