"""The one secret of an installation, from which every credential is derived."""

import base64

from tenantry import names
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.kinds import SECRET
from tenantry.credentials import Credentials, new_master

SECRET_NAME = "tenantry-master"  # noqa: S105 - a name
KEY = "master"


async def credentials(backend: ApiServer, namespace: str) -> Credentials:
    """Reads the Secret ``tenantry-master``, or makes it: two replicas that race read the same one.

    Raises RuntimeError if it is there and damaged: a new one would change every password.
    """
    while True:
        secret = await backend.get(SECRET, namespace, SECRET_NAME)
        if secret is None:
            await backend.create(
                SECRET,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {
                        "name": SECRET_NAME,
                        "namespace": namespace,
                        "labels": {names.MANAGED_BY_LABEL: names.MANAGER},
                    },
                    "type": "Opaque",
                    "data": {KEY: base64.b64encode(new_master()).decode()},
                },
            )
            continue
        try:
            return Credentials(base64.b64decode((secret.get("data") or {})[KEY], validate=True))
        except (KeyError, ValueError):
            raise RuntimeError(
                f"Secret {namespace}/{SECRET_NAME} holds no valid key {KEY!r}. Restore it from a backup; deleting it "
                "makes new passwords and API keys for every tenant."
            ) from None
