"""How the operator says who it is: a Pod's ServiceAccount, or a kubeconfig."""

import subprocess
import sys
from pathlib import Path

import pytest

from tenantry.backends import access
from tenantry.backends.connection import Connection

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: there
contexts: [{name: there, context: {cluster: there, user: me}}]
clusters: [{name: there, cluster: {server: "https://there.example:6443/"}}]
users: [{name: me, user: {token: mine}}]
"""


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "ca.crt").write_text("not looked at")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return folder


def test_a_pods_service_account_is_used(account: Path) -> None:
    found = access.in_cluster(account)
    assert found is not None
    assert (found.server, found.authority) == ("https://10.96.0.1:443", str(account / "ca.crt"))
    assert found.authorization() == "Bearer first"


def test_an_address_of_version_6_has_brackets(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    found = access.in_cluster(account)
    assert found is not None
    assert found.server == "https://[fd00::1]:443"


@pytest.mark.parametrize("lacks", ["token", "ca.crt", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_where_a_part_is_missing_there_is_no_service_account(
    account: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if (account / lacks).exists():
        (account / lacks).unlink()
    else:
        monkeypatch.delenv(lacks)
    assert access.in_cluster(account) is None


def test_its_token_is_read_anew_when_it_ages(account: Path) -> None:
    now = 0.0
    token = access.Token(account / "token", lambda: now)
    (account / "token").write_text("second")
    now = access.TOKEN_SECONDS
    assert token() == "Bearer first"
    now += 1
    assert token() == "Bearer second"
    (account / "token").unlink()
    now += access.TOKEN_SECONDS + 1
    assert token() == "Bearer second", "what can't be read leaves the old one"


def test_kopf_connects_as_we_do(account: Path) -> None:
    connection = Connection(access.Access("https://there", authorization=access.Token(account / "token")))
    login = connection.login()
    assert (login["server"], login["scheme"], login["token"]) == ("https://there", "Bearer", "first")


def test_a_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    found = access.from_kubeconfig(file)
    assert found.server == "https://there.example:6443"
    assert (found.authorization() or "").split() == ["Bearer", "mine"]


def test_in_a_pod_the_official_library_and_what_only_it_needs_are_not_imported() -> None:
    code = """
import sys
import tenantry.run
unwanted = {"kubernetes", "requests", "urllib3", "pymilvus", "pandas"} & sys.modules.keys()
assert not unwanted, unwanted
import kubernetes  # it can be had where it is wanted
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
