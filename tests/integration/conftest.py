"""Servers that several suites share.  Each starts once, on first use, and is stopped at the end."""

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and an API server with our CRDs, without controllers or admission policies of ours."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.install_crds()
        yield plane


@pytest.fixture(scope="session")
def controllers(control_plane: ControlPlane) -> ControlPlane:
    """The same with the controller manager: namespaces end, quotas count, Deployments make Pods (that stay Pending)."""
    control_plane.start_controllers()
    return control_plane
