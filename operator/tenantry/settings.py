"""The operator's own settings, from environment variables TENANTRY_*; the chart sets them."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TENANTRY_")

    runtime_image: str = Field(description="Image of the tenants' runtime.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    namespace: str = Field(default="tenantry-system", description="Where the operator and the regions' Secrets are.")
    service_account: str = "tenantry"
    monitor: Literal["", "PodMonitor", "ServiceMonitor"] = ""
    prometheus_namespace: str = Field(default="monitoring", description="Whose Pods may scrape the runtimes.")
    prometheus_cidrs: str = Field(default="", description="Comma-separated, for a Prometheus outside the cluster.")
    resync_seconds: float = Field(default=300, gt=0, description="After this time everything is looked at anew.")
    workers: int = Field(default=16, ge=1, le=256, description="Tenants of one region reconciled at once.")
    pod: str = Field(default="", description="This replica's name, in the Lease; the host name if empty.")
    lease_seconds: float = Field(default=10, gt=1, description="A leader that does not renew is replaced after this.")
    health_port: int = 8080
    metrics_port: int = 9090
    listen: str = Field(default="0.0.0.0", description="Address of the health and metrics ports.")  # noqa: S104
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    rotate_after_days: float = Field(
        default=90, ge=0, description="Age at which the runtimes' own logins are replaced; 0: never by age."
    )
    rotation_overlap_seconds: float = Field(
        default=3600,
        ge=0,
        description="How long after a rotation began a tenant's own programs may use the Milvus user before it.",
    )
    partitions_per_collection: int = Field(
        default=1000, ge=1, le=4096, description="Of a shared Milvus collection, which takes 1,024 by default."
    )
