"""Requests of the operator to the API server, and the objects that they are for."""

from collections import Counter

import httpx

from tenantry import names
from tenantry.backends import kinds
from tests.integration.operator.world import Replica, World


def requests(replica: Replica) -> Counter[str]:
    """By verb and resource since the process began, Leases apart: ``{"apply namespaces": 40}``."""
    found: Counter[str] = Counter()
    for line in httpx.get(replica.metrics, trust_env=False, timeout=60).text.splitlines():
        if line.startswith("tenantry_api_requests_total{") and 'resource="leases"' not in line:
            labels, _, number = line.rpartition(" ")
            parts = dict(pair.split("=", 1) for pair in labels.partition("{")[2].rstrip("}").split(","))
            found[f"{parts['verb']} {parts['resource']}".replace('"', "")] += int(float(number))
    return found


def objects(world: World) -> Counter[str]:
    """How many objects each tenant has, its Tenant apart: by label, its AccessKeys, and the Events that name it."""
    found: Counter[str] = Counter()
    for kind in (*kinds.CHILDREN, kinds.SECRET):
        answer = world.api.get(kind.path(), params={"labelSelector": names.TENANT_LABEL})
        for item in answer.json()["items"]:
            # What a controller makes of ours carries our labels too, but not our annotation.
            if names.UID_ANNOTATION in item["metadata"].get("annotations", {}):
                found[item["metadata"]["labels"][names.TENANT_LABEL]] += 1
    for key in world.api.get(kinds.ACCESS_KEY.path()).json()["items"]:
        found[key["metadata"]["namespace"].split("--")[0].removeprefix("tenant-")] += 1
    for event in world.api.get("/api/v1/namespaces/default/events").json()["items"]:
        if event["involvedObject"].get("kind") == "Tenant":
            found[event["involvedObject"]["name"]] += 1
    return found
