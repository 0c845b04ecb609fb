# Few targets, on purpose. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
NEWS := | $(BIN)/python infra/pip_news.py

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -o pipefail -ec

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 14

demo: $(VENV)/local ## Build, publish, roll out and ask the example model, on this machine
	@$(BIN)/enginery demo

test: $(VENV)/dev ## Everything CI runs: linters, types, all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 3 --dist worksteal

unit: $(VENV)/dev ## The fast tests only
	$(BIN)/pytest -n 2 -m "not integration"

docs: $(VENV)/dev ## Write what is generated in docs/ and infra/iam/
	$(BIN)/python -m enginery.cli.spec_reference docs
	$(BIN)/python -m enginery.registry.iam infra/iam

bench: $(VENV)/bench ## Measure what we claim to be fast
	$(BIN)/python -m benchmarks.pipeline

clean: ## Remove what make has made here (not ~/.enginery)
	rm -rf $(VENV) .enginery .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Enginery needs Python 3.11 or later: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing Enginery into $(VENV): a minute or two, once"
	@$(INSTALL) -e '.[local]' $(NEWS)
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing Enginery and its tests into $(VENV): a minute or two, once"
	@$(INSTALL) -e '.[dev]' $(NEWS)
	@touch $@ $(VENV)/local

$(VENV)/bench: $(VENV)/dev
	@echo "installing what Enginery is measured against into $(VENV)"
	@$(INSTALL) -e '.[bench]' $(NEWS)
	@touch $@

.PHONY: help demo test unit docs bench clean
