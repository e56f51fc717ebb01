"""What is left of tenants that are no more: `python -m tenantry.scan`, in the operator's Pod or with $KUBECONFIG.

Looks at Kubernetes and at every DataRegion's PostgreSQL and Milvus, changes nothing, and ends with status 1 where
something carries the UID of no Tenant and was not kept on purpose, 2 where it could not look everywhere.
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import Literal

from tenantry import names
from tenantry.api import DataRegion, Tenant
from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.errors import BackendError
from tenantry.backends.inventory import Stored
from tenantry.backends.kinds import CHILDREN, REGION, TENANT
from tenantry.backends.kubernetes import KubernetesBackend, selector
from tenantry.backends.observed import Observed
from tenantry.regions import Regions
from tenantry.settings import Settings

BELIEVED_SECONDS = 0.0


@dataclass(frozen=True, order=True)
class Finding:
    """One thing of a tenant that is not there (any more)."""

    verdict: Literal["orphan", "retained", "archived"]
    where: str
    kind: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.verdict:9} {self.where:28} {self.kind:20} {self.name}"


@dataclass
class Report:
    findings: list[Finding]
    looked_at: int
    """Things that were looked at, those of living tenants included."""
    problems: list[str]
    """What could not be looked at, and why."""

    @property
    def orphans(self) -> list[Finding]:
        return [f for f in self.findings if f.verdict == "orphan"]


def judge(stored: list[Stored], living: set[str], region: str) -> list[Finding]:
    """What belongs to none of the UIDs in `living`.  Pure.

    Milvus has no mark for what was kept: that is known by PostgreSQL's, which was kept with it.
    """
    alive = {names.bare(uid) for uid in living} | {names.short(uid) for uid in living}
    kept = {s.uid for s in stored if s.retained}
    return [
        Finding(_verdict(s, kept), f"{s.store} of {region}", s.kind, s.name, s.uid)
        for s in stored
        if s.uid not in alive
    ]


def _verdict(stored: Stored, kept: set[str]) -> Literal["orphan", "retained", "archived"]:
    if stored.archived:
        return "archived"
    return "retained" if stored.uid in kept else "orphan"


async def scan(kubernetes: KubernetesBackend, regions: Regions) -> Report:
    """Tenants are listed last: one that is made meanwhile is no orphan."""
    objects = [o for kind in CHILDREN for o in await kubernetes.list_all(kind, selector())]
    stored: list[tuple[str, list[Stored]]] = []
    problems: list[str] = []
    for obj in await kubernetes.list_all(REGION):
        region = DataRegion.model_validate(obj)
        try:
            backends = await regions.get(region)
            stored.append((region.name, await backends.postgres.inventory() + await backends.milvus.inventory()))
        except BackendError as error:
            problems.append(f"DataRegion {region.name}: {error.message}")
    tenants = [Tenant.model_validate(o) for o in await kubernetes.list_all(TENANT)]
    living = {uid for t in tenants for uid in (t.uid, t.identity)}
    findings = [
        Finding("orphan", "Kubernetes", o["kind"], "/".join(filter(None, [meta.get("namespace"), meta["name"]])), uid)
        for o in objects
        if (meta := o["metadata"]) and (uid := meta.get("annotations", {}).get(names.UID_ANNOTATION, "")) not in living
    ]
    # Two regions may be served by the same servers: each thing is told once.
    told: set[Stored] = set()
    for name, things in stored:
        findings += judge([t for t in things if t not in told], living, name)
        told.update(things)
    return Report(sorted(findings), len(objects) + len(told), problems)


async def _main() -> int:
    settings = Settings()
    connection = Connection()
    kubernetes = KubernetesBackend(connection, Observed())
    regions = Regions(kubernetes, settings.namespace, settings.partitions_per_collection, BELIEVED_SECONDS)
    try:
        report = await scan(kubernetes, regions)
    except ApiError as error:
        print(f"The API server could not be asked: {error.message}", file=sys.stderr)
        return 2
    finally:
        await regions.close()
        await connection.close()
    for finding in report.findings:
        print(finding)
    for problem in report.problems:
        print(f"not looked at: {problem}", file=sys.stderr)
    print(f"{report.looked_at} things of tenants, {len(report.orphans)} of them orphans.")
    return 1 if report.orphans else 2 if report.problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
