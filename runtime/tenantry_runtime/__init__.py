"""The per-tenant service: an OpenAI-compatible API that serves one tenant and can name no other."""
