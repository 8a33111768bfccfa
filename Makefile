# `make serve` and `make test` do all the set-up; the rest is listed by `make help`.
PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := pyproject.toml constraints.txt
# One process a core; tests/conftest.py gives each one thread.
TESTS := $(BIN)/python -m pytest -n logical --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow soak coverage lint format docs package image train-demo loadtest students clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

serve: $(VENV)/base  ## start the service with the shipped students on port 8000 (PORT=... for another)
	@exec $(BIN)/python -m service --port $(PORT)

test: $(VENV)/dev lint  ## lint, check types and run the tests, on all cores
	$(TESTS)

test-slow: $(VENV)/dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

soak: $(VENV)/dev  ## load the service for ten minutes (MINUTES=...): memory and latency must not drift
	SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m soak -s

coverage: $(VENV)/dev  ## run the tests with branch coverage
	$(TESTS) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

lint: $(VENV)/dev  ## ruff, mypy, and the workflows' syntax and permissions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet --no-progress .github

format: $(VENV)/dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs  ## rewrite the reference pages that the code makes, and build the documentation in build/site
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

package:  ## build and check wheel and source distribution, install the wheel alone, and list what it holds (SBOM)
	sh deploy/package.sh "$(PYTHON)"

image:  ## build the Docker image distilled-nlu:latest and wait until it is healthy
	sh deploy/image.sh distilled-nlu:latest

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

$(VENV)/docs: $(VENV)/base
	@echo "installing what the documentation needs into $(VENV)"
	@$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/dev: $(VENV)/base
	@echo "installing what training, export and tests need into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@
