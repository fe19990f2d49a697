# Everything builds itself from `python3` alone: `make demo` and `make test` need no step before them.
PYTHON ?= python3
BIN := .venv/bin
# A worker for each core. A file's tests stay together and share what they made; a hung or crashed one ends the run.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.DELETE_ON_ERROR:
.PHONY: demo test typed check docs lock

# uv takes the locked torch and torchvision as a pair and checks every hash; a marker file keeps the target idempotent.
.venv: .venv/installed
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-virtualenv "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/installed
	$(BIN)/pairloom demo

test: .venv/installed
	$(PYTEST)

typed: .venv/installed
	$(BIN)/mypy
	$(BIN)/lint-imports

# Types are checked in what the tests leave of the cores: they often wait for a process or a disk.
check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint docs/deploy/Dockerfile
	$(MAKE) --no-print-directory --jobs 2 typed test
	$(BIN)/pairloom deploy --check

docs: .venv/installed
	$(BIN)/python docs/make_configuration.py
	$(BIN)/python docs/make_quarantine.py

lock: .venv/installed
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras -o requirements.lock pyproject.toml
