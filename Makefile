# `make serve` and `make test` do all the set-up; the rest is listed by `make help`.
PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow soak lint format docs train-demo loadtest students clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

serve: $(VENV)/base  ## start the service with the shipped students on port 8000 (PORT=... for another)
	@exec $(BIN)/python -m service --port $(PORT)

test: $(VENV)/dev lint  ## lint, check types and run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

soak: $(VENV)/dev  ## load the service for ten minutes (MINUTES=... for more or less): memory and latency must not drift
	SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m soak -s

lint: $(VENV)/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/base  ## rewrite the page of all settings, docs/configuration.md
	@$(BIN)/python docs/settings_reference.py >docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

train-demo: $(VENV)/dev  ## train, export and query a tiny student on the sample data (under three minutes)
	@BIN=$(BIN) sh training/demo.sh runs/demo

loadtest: $(VENV)/dev  ## start the service, load it for a few seconds, print client and server times
	@$(BIN)/python -m loadtest

students: $(VENV)/dev  ## train and export the shipped students: make students MASSIVE=DIR GENERIC=DIR CLINC150=FILE
	@test -n "$(MASSIVE)" && test -n "$(GENERIC)" && test -n "$(CLINC150)" || \
	    { echo "name the data: make students MASSIVE=DIR GENERIC=DIR CLINC150=FILE"; exit 2; }
	@BIN=$(BIN) sh training/shipped.sh "$(MASSIVE)" "$(GENERIC)" "$(CLINC150)" runs/shipped

clean:  ## remove the environment and caches (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# An environment that serves. The one that tests holds it too, so whichever comes first is kept.
$(VENV)/base: $(SETUP)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "installing what serving needs into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/dev: $(VENV)/base
	@echo "installing what training, export and tests need into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@
