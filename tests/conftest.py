"""Property tests give the same cases in every run, and no clock fails them."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tenantry",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("tenantry")
