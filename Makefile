.DEFAULT_GOAL := help
PYTHON ?= python3
JOBS ?= 3
PACKAGES := libs/common services/accounts services/certifications services/applications services/shifts services/notifications gateway libs/cli
OWN := callboard callboard-common callboard-accounts callboard-applications callboard-certifications callboard-gateway callboard-notifications callboard-shifts

.PHONY: help install up test faults bench bench-large soak lint format lock clean

help: ## List what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/installed ## Make .venv with everything that Callboard needs

.venv/installed: requirements.lock pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	touch $@

up: install ## Run Callboard (options: make up ARGS="--port 9000")
	@.venv/bin/callboard up $(ARGS)

test: install ## Run every test on real MongoDB and NATS processes, several files at a time (JOBS=3)
	.venv/bin/python -m pytest -n $(JOBS) $(ARGS)

faults: install ## Kill, stop and cut every part under load, then count (SEEDS=10)
	.venv/bin/python -m tests.faults --seeds $(or $(SEEDS),4)

bench: install ## Measure beside nginx and a plain stack, about six minutes
	.venv/bin/python -m bench $(ARGS)

bench-large: install ## Measure with a million accounts beside a thousand
	.venv/bin/python -m bench.large $(ARGS)

soak: install ## Half an hour of mixed load at half of the peak
	.venv/bin/python -m bench.soak $(ARGS)

lint: install ## Check format, style, types and import rules
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/mypy tests bench
	.venv/bin/lint-imports

format: install ## Format the code
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

COMPILE := .venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock"

lock: ## Pin every dependency anew, with hashes (the workspace's own packages excepted)
	$(COMPILE) $(OWN:%=--no-emit-package %) $(PACKAGES:%=%/pyproject.toml) --group dev --output-file requirements.lock
	$(COMPILE) $(OWN:%=--no-emit-package %) $(PACKAGES:%=%/pyproject.toml) --constraint requirements.lock --output-file requirements-runtime.lock
	$(COMPILE) --group build --constraint requirements.lock --output-file requirements-build.lock

clean: ## Remove .venv and caches (not the data)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
