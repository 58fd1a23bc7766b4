# Everything goes through .venv, which `setup` makes and keeps equal to requirements.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3)

# With the repository's root on the import path, our `datasets` would hide Hugging Face's.
export PYTHONSAFEPATH = 1
# Where it is set, each of the many processes would compile its imports anew: half of their start.
unexport PYTHONDONTWRITEBYTECODE

# How many processes run the tests: one a core of the smallest machine that they are meant for.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check types docs acceptance mutation lock

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## make .venv from the lock (once; a second call returns at once)
	@$(PYTHON) infra/setup.py

demo: setup ## the whole road on procedural dancers, tiny: runs/demo/report/index.html
	@.venv/bin/steadydancer demo

# With -X, a crash in a library says where, even after the last test.
test: setup ## what must hold before a change goes in; no network, no accelerator, within 10 minutes on 2 cores
	.venv/bin/python -X faulthandler -m pytest -m "not acceptance" -n $(WORKERS) --dist loadgroup

check: setup types docs ## lint, formatting, types and the docs site
	.venv/bin/ruff check
	.venv/bin/ruff format --check

# The type checker looks for a package by its folder's name, and ours has the repository's.
types: setup
	@mkdir -p build/types/steadydancer
	@ln -sfn $(addprefix $(CURDIR)/,__init__.py datasets models pipelines flows) build/types/steadydancer/
	MYPYPATH=build/types .venv/bin/mypy

docs: setup ## build the docs site from docs/ and the docstrings: build/site
	.venv/bin/mkdocs build --strict

acceptance: setup ## the long runs, one after another, then the benchmarks
	.venv/bin/python -X faulthandler -m pytest -m acceptance
	@set -e; for benchmark in $(sort $(wildcard benchmarks/*.py)); do echo "$$benchmark"; .venv/bin/python "$$benchmark"; done

mutation: setup ## plant faults in the modules that decide results; goes on where it was stopped
	PYTHONPATH=benchmarks .venv/bin/python -m mutation --report benchmarks/mutation/report.md

lock: setup ## make requirements.lock again from pyproject.toml, for every platform (needs a package index)
	.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -o requirements.lock
