from kubernetes.client import Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader

from tenantry.backends.connection import Connection


def test_a_pods_service_account_is_used_and_its_token_is_read_anew(tmp_path):
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text("not looked at")
    made = Configuration()
    loader = InClusterConfigLoader(
        token_filename=str(token),
        cert_filename=str(authority),
        environ={"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    )
    loader.load_and_set(made)
    made.ssl_ca_cert = None
    connection = Connection(made)
    assert connection.server == "https://10.96.0.1:443"
    assert connection.token() == "bearer first"
    token.write_text("second")
    loader.token_expires_at = loader.token_expires_at.replace(year=2000)
    connection.token()
    assert connection.login()["token"] == "second"
    assert connection.login()["scheme"] == "bearer"
