"""The kinds of what is found: a bounded set, for metrics and audit."""

FOREIGN_TENANT = "foreign_tenant"
"""An identifier of another tenant's; every other kind is a secret."""

SECRETS = (
    "anthropic_key",
    "aws_key",
    "azure_key",
    "card_number",
    "connection_string",
    "databricks_token",
    "digitalocean_token",
    "discord_token",
    "gcp_key",
    "generic_token",
    "github_token",
    "gitlab_token",
    "huggingface_token",
    "jwt",
    "mailgun_key",
    "npm_token",
    "openai_key",
    "password",
    "private_key",
    "pypi_token",
    "sendgrid_key",
    "slack_token",
    "stripe_key",
    "telegram_token",
    "tenantry_key",
    "twilio_key",
)
KINDS = (FOREIGN_TENANT, *SECRETS)
