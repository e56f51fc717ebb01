"""All routes of the service: a route that is not in `ROUTES` does not exist, neither here nor in the document."""

from tenantry_runtime.endpoint import Endpoint, Open
from tenantry_runtime.routes import chat, embeddings, file_batches, files, models, probes, vector_stores

ROUTES: tuple[Endpoint | Open, ...] = (
    *probes.ROUTES,
    *models.ROUTES,
    *chat.ROUTES,
    *embeddings.ROUTES,
    *files.ROUTES,
    *vector_stores.ROUTES,
    *file_batches.ROUTES,
)
