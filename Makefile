# Each target is a few commands, which README.md also shows.
PYTHON ?= python3
BUNDLE ?= oasis_mri_alzheimers_classification
BIN := .venv/bin

.PHONY: demo test lint package bench

.venv/installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

demo: .venv/installed
	$(BIN)/python scripts/demo.py $(BUNDLE) demo/$(BUNDLE)

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

package: .venv/installed
	$(BIN)/python scripts/package_bundle.py bundles/$(BUNDLE)

bench: .venv/installed
	$(BIN)/python scripts/benchmark.py oasis
