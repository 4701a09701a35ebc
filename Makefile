# edgerad: `make demo` and `make test` do all the set-up on a fresh machine.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= $(shell for p in python3.12 python3.11 python3 .venv/bin/python; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
READY := $(VENV)/.ready
CODE := edgerad imaging ingest serve notify ship train dashboard deploy tests benchmarks
ARGS ?=
PYTEST_ARGS ?=

.PHONY: help python setup demo demo-full test check format lint types install-parts lock wheel clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

python:
	@if [ -z "$(PYTHON)" ]; then echo "edgerad needs Python 3.11 or 3.12; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi

setup: $(READY) ## make .venv with everything pinned in requirements.lock

$(READY): requirements.lock pyproject.toml | python
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV) || { echo "making .venv failed; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	@touch $@

demo: setup ## the whole loop on this machine, embedded parts only (ARGS="--once --json")
	$(VENV)/bin/edgerad demo $(ARGS)

demo-full: setup install-parts ## the same over real Kafka, Ceph RGW and PostgreSQL
	$(VENV)/bin/python -m deploy.demo_full $(ARGS)

install-parts: python ## bring Kafka, Ceph, PostgreSQL, Orthanc, dcmtk, Chromium, as far as this machine allows
	@$(PYTHON) -m deploy.install

test: setup install-parts ## run the tests (PYTEST_ARGS="-k name")
	$(VENV)/bin/python -m pytest --numprocesses=2 $(PYTEST_ARGS)

check: ## everything that CI runs, at the same time what does not wait for another
	@$(MAKE) --no-print-directory --jobs=4 format lint types test

format: setup
	$(VENV)/bin/ruff format --check .

lint: setup
	$(VENV)/bin/ruff check .

types: setup
	nice $(VENV)/bin/mypy $(CODE)

lock: setup ## pin anew what pyproject.toml asks for
	$(VENV)/bin/uv pip compile --quiet pyproject.toml --extra dev --override overrides.txt --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header -o requirements.lock

wheel: setup ## build dist/edgerad-….whl for cluster.yaml
	$(VENV)/bin/uv build --quiet --wheel

clean: ## remove what setup made
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache
