"""Effects: what the operator does to Kubernetes, PostgreSQL and Milvus."""
