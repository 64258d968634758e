# Every target runs in .venv, which `setup` makes and keeps up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start hundreds of processes: without kept bytecode each compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The stamp is newer than pyproject.toml only after an installation that succeeded.
$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Create .venv with the package and its development tools
	@:

# The hot modules compiled, in a tree of its own: put it first on PYTHONPATH.
COMPILED := build/compiled
$(COMPILED)/.made: $(STAMP) hatch_build.py $(wildcard proto/ackline/proto/*.py proto/ackline/aio/*.py)
	@$(BIN)/python hatch_build.py $(COMPILED) > /dev/null
	@touch $@

.PHONY: compiled
compiled: $(COMPILED)/.made ## Compile the hot modules, for tests and benchmarks
	@:

# Tests wait as much as they compute: twice as many at once as there are processors.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
CORE := tests/proto tests/aio tests/interop tests/test_compiled.py

.PHONY: test
test: setup ## Run all tests
	$(BIN)/python $(PYTEST) --ignore=tests/monitoring

.PHONY: test-compiled
test-compiled: compiled ## Run the tests of the core with compiled modules
	ACKLINE_COMPILED=1 PYTHONPATH=$(COMPILED) $(BIN)/python $(PYTEST) \
	    $(CORE) --ignore=tests/proto/test_merging.py tests/client/test_merging.py \
	    --ignore=tests/proto/test_scheduler.py

SECONDS ?= 600

.PHONY: fuzz
fuzz: setup ## Fuzz the cores of the protocol for SECONDS each; what is found is kept
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

.PHONY: soak
soak: setup ## Mixed load with random faults, then simulated crashes, SECONDS each
	$(BIN)/python -m tests.soak --seconds $(SECONDS)
	$(BIN)/python -m tests.soak.herd
	$(BIN)/python -m tests.crash --seconds $(SECONDS)

.PHONY: coverage
coverage: setup ## Run all tests and report branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --ignore=tests/monitoring
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: page-test
page-test: setup ## Test the live page in a browser (Debian: chromium)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[page-test]'
	$(BIN)/python -m pytest tests/page

.PHONY: monitoring-test
monitoring-test: setup ## Test alerts and dashboard in Prometheus (Debian: prometheus)
	$(BIN)/python $(PYTEST) tests/monitoring

.PHONY: check
check: setup ## Lint, check format, types, import rules and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

.PHONY: format
format: setup ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only --select I
	$(BIN)/ruff format

.PHONY: demo
demo: setup ## Run the demonstration
	$(BIN)/python -m demo

# Peers with an extra of their own; one that cannot be installed is skipped.
PEERS := grpc mosquitto nats picows rabbitmq redis sse tuspy websockets

# Ackline and every peer whose packages and programs can be installed.
.PHONY: bench
bench: setup ## Measure Ackline beside its peers
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]'
	-@for extra in $(PEERS); do $(BIN)/python -m pip install -qq \
	    --disable-pip-version-check -e ".[bench-$$extra]" || echo "without $$extra"; done
	-@npm install --silent --no-package-lock --prefix bench/peers/tus
	$(MAKE) compiled
	PYTHONPATH=$(COMPILED) $(BIN)/python -m bench headlines

.PHONY: clean
clean: ## Remove .venv, caches and reports
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis \
	    .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find proto server client tests -name __pycache__ -type d -prune -exec rm -rf {} +
