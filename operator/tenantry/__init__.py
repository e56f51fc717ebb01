"""Tenantry's operator: one Tenant resource becomes everything that one customer needs."""
