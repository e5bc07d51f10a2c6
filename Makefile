# `make demo` and `make test` each work alone, from a clean clone, on a Debian machine with Python 3.11, venv, make and pip.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint search mutants fuzz soak matrix bench system system-mongod system-soak system-bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: .venv/.demo system-mongod  ## run the demo: a page to open in a browser, with a MongoDB of its own
	$(BIN)/python -m examples.demo

test: lint system  ## everything that CI runs: lint, then the tests
	$(BIN)/pytest

lint: .venv/.dev  ## ruff, mypy, pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright

search: .venv/.dev system  ## the long searches: more orders of events, seeds and rounds than `make test` tries
	$(BIN)/pytest -m search -o faulthandler_timeout=0

# `make mutants MUTANTS="epoch upsert"` applies those alone whose file or reason says one of the words.
mutants: .venv/.dev system  ## break the rules of the core by hand, one at a time: a test has to notice each; 4 minutes
	$(BIN)/python -m tests.mutants $(MUTANTS)

# `make fuzz FUZZ="token signed --seconds 300"` fuzzes some targets only, and longer.
fuzz: .venv-fuzz/.done  ## look for bytes that the parsers stumble over, guided by coverage; 7 minutes
	nice .venv-fuzz/bin/python -m fuzz $(FUZZ)

# `make soak SOAK="faults rollback"` runs some parts only.
soak: .venv/.dev system-soak  ## faults, load and attack on real servers, 30 minutes; writes docs/soak, docs/promises.md
	$(BIN)/python -m soak $(SOAK)

matrix: .venv/.dev .venv-oldest/.done system  ## every adapter, server and driver, with the latest and the oldest releases
	$(BIN)/pytest -m "not search" tests/test_worlds.py
	.venv-oldest/bin/pytest -m "not search" tests/test_worlds.py

# `make bench BENCH="instructions pages"` runs some parts only.
bench: system-bench .venv-bench/.done bench/peers/node/node_modules  ## measure, beside peers; writes docs/bench, docs/benchmarks.md
	.venv-bench/bin/python -m bench $(BENCH)

clean:  ## remove the environment and whatever tools left behind
	rm -rf .venv .venv-oldest .venv-bench .venv-fuzz bench/peers/node/node_modules build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------- the Python environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Python 3.11 or newer is needed; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"  # the first that knows --group

.venv/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[starlette]" --group demo
	@touch $@

# Holds what the demo needs, too.
.venv/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[cli,motor,starlette,tornado]" --group dev
	@touch $@ .venv/.demo

.venv-oldest/.done: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-oldest/bin/pip install --quiet --editable ".[cli,motor,starlette,tornado]" --group oldest
	@touch $@

.venv-fuzz/.done: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-fuzz/bin/pip install --quiet --editable ".[cli]" --group fuzz
	@touch $@

.venv-bench/.done: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/pip install --quiet --editable ".[motor,starlette]" --group bench
	@touch $@

bench/peers/node/node_modules: bench/peers/node/package-lock.json
	cd bench/peers/node && npm ci --silent --no-audit --no-fund
	@touch $@

# ------------------------------------------------------------------------------------------------- the system packages

# What is looked for, and the Debian package that holds it. The libraries are those that the wheel's mongod links.
MONGOD_NEEDS := libcurl.so.4=libcurl4 libssl.so.3=libssl3
BROWSER_NEEDS := chromium=chromium chromedriver=chromium-driver
SOAK_NEEDS := ip=iproute2 unshare=util-linux nsenter=util-linux
BENCH_NEEDS := valgrind=valgrind node=nodejs npm=npm taskset=util-linux

system: NEEDS := $(MONGOD_NEEDS) $(BROWSER_NEEDS)
system: ## install the Debian packages that are missing (as root), or print the line that does
system-mongod: NEEDS := $(MONGOD_NEEDS)
system-soak: NEEDS := $(MONGOD_NEEDS) $(BROWSER_NEEDS) $(SOAK_NEEDS)
system-bench: NEEDS := $(MONGOD_NEEDS) $(BENCH_NEEDS)
system system-mongod system-soak system-bench:
	@missing=; \
	for need in $(NEEDS); do \
	    name=$${need%=*}; \
	    case $$name in \
	        *.so.*) [ "$$(uname -sm)" != "Linux x86_64" ] || /sbin/ldconfig -p | grep -qF "$$name " ;; \
	        *) PATH="$$PATH:/usr/sbin:/sbin" command -v $$name >/dev/null ;; \
	    esac || missing="$$missing $${need#*=}"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "missing on this machine; please run: sudo apt-get install$$missing" >&2; exit 1; \
	fi
