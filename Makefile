# make demo      see it work: installs the package, then `patchword demo`
# make test      lint, types, import contracts and tests, as CI runs them
# make check     lint, types, import contracts and the fast half of the tests
# make check-recipes  the shipped recipes, each run whole
# make check-shared   the tests that need the corpora at DATA
# make check-page  the server's page, in an installed Chromium
# make check-ray   indexes in object storage and on a Ray cluster, both on this machine
# make venv      .venv with everything that tests and benchmarks need
# make bench     all benchmarks, peers beside ours, hours of them, into docs/benchmarks.md; goes on
#                where it was interrupted; needs the data at DATA
# make docs      write docs/cli.md and docs/api.md anew
# make samples   draw the samples anew
# make page-pictures  take docs/page/ again, in an installed Chromium
# make receipts  ask the original libraries again what tests/receipts holds

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
TOO_OLD := patchword needs Python 3.11 or newer: say make PYTHON=python3.12

# Python keeps what it has compiled: hundreds of tests start it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check check-recipes check-shared check-page check-ray lint venv bench docs samples page-pictures receipts

demo: $(RUNTIME)
	$(BIN)/patchword demo

# Two processes of one thread each: many small networks, and threads would only wait for each other.
# The order of the files is that of tests/conftest.py.
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

# What the repository holds, and not what else may lie in the folder.
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

# None may reach the hub: what they need is here.
test check check-recipes check-shared check-page check-ray bench receipts: export HF_HUB_OFFLINE := 1

# torch goes first and alone, so that its version is settled before anything else asks for one.
$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)")'
	$(PYTHON) -m venv .venv
	@echo "Installing torch and what the package needs into .venv: a few minutes, once"
	$(PIP) torch setuptools
	$(PIP) --no-build-isolation --editable '.[heif]'
	touch $@

# The reference libraries of the second step name torchvision, whose index build needs CUDA; their
# real needs come with the first.
$(TESTING): $(RUNTIME)
	$(PIP) --no-build-isolation --editable '.[test]'
	$(PIP) --no-build-isolation --no-deps open_clip_torch timm openai-clip torchvision
	touch $@

$(BROWSER): $(TESTING)
	$(PIP) playwright
	touch $@

# The object store has an environment of its own: botocore wants an older dateutil.
$(CLUSTER): $(TESTING)
	$(PIP) --no-build-isolation --editable '.[ray]'
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet 'moto[server]==5.2.5' || { rm -r $@; exit 1; }
