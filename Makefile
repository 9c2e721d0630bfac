# Everything a contributor runs. On a fresh machine, `make demo` and `make test` set up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow lint types audit lock bench docs build clean

setup: $(READY)

# One environment for all targets, of the packages that the lock names and no others, each checked by its hash. A Python
# that the lock was not made for, or other packages: make LOCK= setup
LOCK ?= requirements-dev.lock
$(READY): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "cocoop needs Python 3.10 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is incomplete (Debian: apt install python3-venv)" >&2; exit 1; }
ifeq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	@touch $@

demo: $(READY)
	$(BIN)/cocoop demo

# Two processes, one thread each, which is what two cores have.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# What is known about the locked packages; fails for what nobody has looked at (tools/audit-ignored.json).
audit: $(READY)
	$(BIN)/python tools/audit.py

# Pins what is not pinned yet; all anew: make lock UPGRADE=--upgrade
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes --quiet \
		--no-header --no-emit-index-url --no-emit-find-links $(UPGRADE) --output-file requirements-dev.lock

bench: $(READY)
	$(BIN)/python benchmarks/speed.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist and the wheel, in dist/. The build backend is the locked one: without isolation, nothing is downloaded.
build: $(READY)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) demo build dist
