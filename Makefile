# Each target is a few commands, which README.md also shows.
PYTHON ?= python3
BUNDLE ?= oasis_mri_alzheimers_classification
BIN := .venv/bin

.PHONY: demo real test test-all lint package verify try-package bench

.venv/installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

demo: .venv/installed
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo_$(BUNDLE).sh demo/$(BUNDLE)

real: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/real_$(BUNDLE).sh "$(RAW)"

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "slow or not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

package: .venv/installed
	$(BIN)/python scripts/package_bundle.py pack bundles/$(BUNDLE)

verify: .venv/installed
	$(BIN)/python scripts/verify_bundle.py dist/$(BUNDLE)_v*.zip

try-package: .venv/installed
	PYTHON=$(CURDIR)/$(BIN)/python bash scripts/try_package.sh build/try

bench: .venv/installed
	$(BIN)/python scripts/benchmark.py
