# Two commands for a newcomer: `make demo` and `make test`.  Each makes .venv if it is missing or out of date.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
ROOT ?= unclip-root
# Half of a test run waits for processes to start: two at a time fill two cores.  One that dies ends the run.
IN_TWO := --numprocesses 2 --dist loadscope --no-loadscope-reorder --max-worker-restart 0
STAMP := $(VENV)/.installed

.PHONY: help setup demo showcase test lint soak bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv from requirements.lock (leaves a current one alone)

$(STAMP): requirements.lock pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

demo: $(STAMP) ## URLs to an evaluated, registered model, under 15 minutes on 2 cores
	$(BIN)/unclip run workflows/recipes/demo.yaml --root $(ROOT)

showcase: $(STAMP) ## the demo's recipe with a longer training budget
	$(BIN)/unclip run workflows/recipes/showcase.yaml --root $(ROOT)

test: $(STAMP) ## every guarantee and feature once, under 15 minutes on 2 cores
	$(BIN)/python -m pytest tests $(IN_TWO)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(STAMP) ## the whole fault and parity matrix; writes its dated table into docs/
	$(BIN)/python -m pytest tests -m "soak or not soak" --soak-table docs/soak.md

bench: $(STAMP) ## every benchmark; the last line of each is one JSON object
	@for f in $$(grep -l __main__ tests/benchmarks/*.py); do $(BIN)/python -m tests.benchmarks.$$(basename $$f .py) --json || exit 1; done

lock: $(STAMP) ## resolve requirements.lock and the locks of other environments anew
	$(BIN)/uv pip compile pyproject.toml --extra demo --extra interop --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock
	$(BIN)/uv pip compile infra/environments/gantman.in --override infra/environments/gantman.overrides \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --no-annotate --quiet --output-file infra/environments/gantman.lock

clean: ## remove the demo's root
	rm -rf $(ROOT)
