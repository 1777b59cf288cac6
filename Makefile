# make demo           see it work: installs the package into .venv, then runs `patchword demo`
# make check          lint, types, import contracts and the fast half of the tests
# make test           the same with all tests, as CI runs them
# make check-recipes  train with each shipped recipe to the end
# make check-page     the server's page in an installed Chromium
# make check-ray      object storage and a Ray cluster, both on this machine
# make check-shared   tests that need the datasets in DATA
# make venv           .venv with everything that tests and benchmarks need
# make docs           write docs/cli.md and docs/api.md again
# make samples        draw the samples again
# make page-pictures  take the pictures in docs/page/ again, in an installed Chromium
# make receipts       compute tests/receipts again with the original libraries
# make bench          all benchmarks, with other libraries beside ours, into docs/benchmarks.md. It takes
#                     hours, needs the datasets in DATA, and continues after an interruption
# make help           print this list

PYTHON ?= python3
DATA ?= ../shared/data
CODE := src tests benchmarks tools
BIN := .venv/bin
RUNTIME := .venv/.runtime
TESTING := .venv/.testing
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
BROWSER := .venv/.browser
CLUSTER := .venv/.cluster
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NO_CHROMIUM := make check-page needs Chromium: apt-get install chromium, or make CHROMIUM=PATH
TOO_OLD := patchword needs Python 3.11 or newer: run make PYTHON=python3.12

# Keep compiled bytecode: hundreds of tests start Python again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check check-recipes check-shared check-page check-ray lint venv bench docs samples page-pictures receipts

demo: $(RUNTIME)
	$(BIN)/patchword demo

help:
	@sed -n '/^# make/,/^$$/s/^# //p' Makefile

# Two processes of one thread each: networks are small, so more threads would only wait for each other.
# tests/conftest.py sets the order of the files.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --max-worker-restart 0 --dist loadfile \
		--no-loadscope-reorder

check: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow"

check-recipes: $(TESTING)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist load tests/recipes

check-shared: $(TESTING)
	DATA="$(DATA)" OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile tests/shared

check-page: $(BROWSER)
	@test -n "$(CHROMIUM)" || { echo "$(NO_CHROMIUM)"; exit 1; }
	CHROMIUM="$(CHROMIUM)" OMP_NUM_THREADS=1 $(BIN)/pytest tests/page

check-ray: $(CLUSTER)
	MOTO_SERVER=$(CLUSTER)/bin/moto_server OMP_NUM_THREADS=1 $(BIN)/pytest tests/ray

# Only the project's own folders, not what else may lie in the checkout.
lint: $(TESTING)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

venv: $(TESTING)

bench: $(TESTING)
	$(BIN)/python benchmarks/run_all.py --data "$(DATA)"

docs: $(RUNTIME)
	$(BIN)/python tools/cli_reference.py > docs/cli.md
	$(BIN)/python tools/api_reference.py > docs/api.md

samples: $(RUNTIME)
	$(BIN)/python tools/samples.py samples

page-pictures: $(BROWSER)
	CHROMIUM="$(CHROMIUM)" $(BIN)/python tools/page_pictures.py docs/page

receipts: $(TESTING)
	$(BIN)/python tests/original_receipts.py

# Tests and benchmarks must not reach the hub.
test check check-recipes check-shared check-page check-ray bench receipts: export HF_HUB_OFFLINE := 1

# torch is installed first and alone, so that no other package chooses its version.
$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)")'
	$(PYTHON) -m venv .venv
	@echo "Installing torch and what the package needs into .venv: a few minutes, once"
	$(PIP) torch setuptools
	$(PIP) --no-build-isolation --editable '.[heif]'
	touch $@

# The reference libraries of the second step depend on torchvision, whose build on PyPI needs CUDA. So they
# are installed without dependencies; those that they really need come with the first step.
$(TESTING): $(RUNTIME)
	$(PIP) --no-build-isolation --editable '.[test]'
	$(PIP) --no-build-isolation --no-deps open_clip_torch timm openai-clip torchvision
	touch $@

$(BROWSER): $(TESTING)
	$(PIP) playwright
	touch $@

# The object store has its own environment, because botocore needs an older dateutil.
$(CLUSTER): $(TESTING)
	$(PIP) --no-build-isolation --editable '.[ray]'
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet 'moto[server]==5.2.5' || { rm -r $@; exit 1; }
