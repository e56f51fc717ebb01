"""All routes of the service: a route that is not in `ROUTES` does not exist, neither here nor in the document."""

from tenantry_runtime.endpoint import Endpoint, Open
from tenantry_runtime.routes import (
    audit,
    chat,
    conversations,
    dashboard,
    embeddings,
    file_batches,
    files,
    models,
    probes,
    prompt,
    responses,
    root,
    usage,
    vector_stores,
)

ROUTES: tuple[Endpoint | Open, ...] = (
    *root.ROUTES,
    *probes.ROUTES,
    *models.ROUTES,
    *chat.ROUTES,
    *responses.ROUTES,
    *embeddings.ROUTES,
    *files.ROUTES,
    *vector_stores.ROUTES,
    *file_batches.ROUTES,
    *prompt.ROUTES,
    *usage.ROUTES,
    *audit.ROUTES,
    *dashboard.ROUTES,
    *conversations.ROUTES,
)
