# What one does here every day.  `make` alone lists it.
SHELL := /bin/sh
PY := .dev/venv/bin/python
KUBE := .dev/bin/kube

.DEFAULT_GOAL := help
.PHONY: help venv cluster-up cluster-down cluster-status demo test lint format unit integration e2e crds bench kills soak lock

# What takes longest, building Kubernetes, begins beside the making of the environment (dev/bootstrap.sh).
cluster-up demo test: export TENANTRY_PREBUILD := 1

help: ## List what make can do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

venv: ## Make .dev/venv with everything that development needs
	@sh dev/bootstrap.sh

cluster-up: venv ## Start the development cluster; the admin kubeconfig is .dev/kubeconfig
	@$(PY) -m dev.cluster up

cluster-down: venv ## Stop it; nothing stays running, mounted, bridged or filtered (PACKAGES=1: nor installed)
	@$(PY) -m dev.cluster down $(if $(PACKAGES),--packages)

cluster-status: venv ## Say what runs
	@$(PY) -m dev.cluster status

demo: venv ## Three tenants on a real cluster, their walls shown (KUBECONFIG, OPENAI_API_KEY are used where set)
	@$(PY) -m dev.demo

test: venv ## Lint, unit, integration and end-to-end tests; a cluster that was not up is stopped again
	@$(PY) -m dev.checks

lint: venv ## ruff, mypy --strict, import contracts, CRDs in step with the models, charts
	@$(PY) -m dev.checks lint

unit: venv ## Unit and property tests (no server needed)
	@$(PY) -m dev.checks unit

integration: venv ## Tests on a real API server, PostgreSQL and Milvus
	@$(PY) -m dev.checks integration

e2e: venv ## Tests with real Pods and the real Prometheus
	@$(PY) -m dev.checks e2e

format: venv ## Write the code as the linter wants it
	@.dev/venv/bin/ruff check -q --fix . && .dev/venv/bin/ruff format -q .

crds: venv ## Write crds/ and the chart's copies from the models
	@$(PY) -m tenantry.api.crd crds charts/tenantry/crds

kills: venv ## Kill the operator around each of its effects and at 100 random moments (SEED=); prints the coverage
	@$(PY) -m tests.integration.survival.kills $(SEED)
	@$(PY) -m tests.integration.survival.moments $(SEED)

soak: venv ## 500 junk manifests, half an hour of random work, kills, outages and drifts; ten minutes of mixed calls (SECONDS=, SEED=)
	@$(PY) -m tests.soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))
	@$(PY) -m bench.runtime --soak $(or $(SECONDS),600)

bench: venv ## Measure, a quarter of an hour (FULL=1: all sizes, an hour); docs/performance.md says how to read it
	@$(PY) -m bench.runtime
	@$(PY) -m bench.api_writes
	@$(PY) -m bench.provisioning $(if $(FULL),--full)

lock: venv ## Resolve requirements/*.lock anew, with hashes and without addresses
	@for extra in operator runtime dev; do \
	  .dev/venv/bin/uv pip compile -q --generate-hashes --no-annotate --no-header --no-emit-index-url \
	    --python-version 3.11 --extra $$extra pyproject.toml -o requirements/$$extra.lock || exit 1; \
	done
	@.dev/venv/bin/uv pip compile -q --generate-hashes --no-annotate --no-header --no-emit-index-url \
	  --python-version 3.11 requirements/litellm.in -o requirements/litellm.lock
