"""`.dev/cluster.json`: where the development cluster's parts are, for the demo and the tests."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dev.cluster import backing, monitoring, paths
from dev.cluster.progress import ClusterError
from dev.cluster.settings import (
    HOST,
    MILVUS_PORT,
    OPERATOR_IMAGE,
    PODS,
    POSTGRES_PORT,
    PROVIDER_PORT,
    RUNTIME_IMAGE,
)


@dataclass(frozen=True)
class PostgresInfo:
    """PostgreSQL as Pods and this machine reach it; the superuser only through the socket's folder."""

    host: str
    port: int
    admin_user: str
    admin_password_file: str
    database: str
    superuser: str
    socket_dir: str


@dataclass(frozen=True)
class MilvusInfo:
    """Milvus as Pods and this machine reach it; its administrator is `root`."""

    uri: str
    root_password_file: str


@dataclass(frozen=True)
class ProviderInfo:
    """The stand-in model provider, in OpenAI's wire format."""

    base_url: str
    api_key_file: str


@dataclass(frozen=True)
class PrometheusInfo:
    """Prometheus' own HTTP API."""

    url: str


@dataclass(frozen=True)
class ImagesInfo:
    """Images that the node already has: never pulled."""

    operator: str
    runtime: str


@dataclass(frozen=True)
class ClusterInfo:
    """Everything that a program outside needs to attach; `pods` says whether Pods can run."""

    kubeconfig: str
    host: str
    postgres: PostgresInfo
    milvus: MilvusInfo
    provider: ProviderInfo
    prometheus: PrometheusInfo
    images: ImagesInfo
    pods: bool


def describe() -> ClusterInfo:
    """The cluster that `up` makes on this machine."""
    postgres = backing.postgres_server()
    return ClusterInfo(
        kubeconfig=str(paths.KUBECONFIG),
        host=HOST,
        postgres=PostgresInfo(
            HOST,
            POSTGRES_PORT,
            "tenantry_admin",
            str(backing.POSTGRES_PASSWORD),
            "tenantry",
            "postgres",
            str(postgres.socket_dir),
        ),
        milvus=MilvusInfo(f"http://{HOST}:{MILVUS_PORT}", str(backing.MILVUS_PASSWORD)),
        provider=ProviderInfo(f"http://{HOST}:{PROVIDER_PORT}/v1", str(backing.PROVIDER_KEY)),
        prometheus=PrometheusInfo(monitoring.URL),
        images=ImagesInfo(OPERATOR_IMAGE, RUNTIME_IMAGE),
        pods=PODS,
    )


def write() -> None:
    """Write the file."""
    paths.INFO.write_text(json.dumps(asdict(describe()), indent=2) + "\n")


def load(file: Path = paths.INFO) -> ClusterInfo:
    """Read the file. Raises ClusterError when the cluster was not started."""
    try:
        read = json.loads(file.read_text())
        return ClusterInfo(
            kubeconfig=read["kubeconfig"],
            host=read["host"],
            postgres=PostgresInfo(**read["postgres"]),
            milvus=MilvusInfo(**read["milvus"]),
            provider=ProviderInfo(**read["provider"]),
            prometheus=PrometheusInfo(**read["prometheus"]),
            images=ImagesInfo(**read["images"]),
            pods=read["pods"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{file} can't be read ({error}): start the cluster with `make cluster-up`.") from error
