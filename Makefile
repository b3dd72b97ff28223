# Everlook's commands. `make` alone lists them.
#
# Each one makes what it needs: a virtual environment in .venv with everything installed, on a machine that has only
# Python >= 3.11 with pip, and make. It is made again when pyproject.toml or constraints.txt changes.
#
# pip reads its own settings from the environment. On Linux the public index has a build of PyTorch that brings gigabytes
# of CUDA along; where there is no GPU, point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds (its installation page
# has the address), or PIP_FIND_LINKS at a folder with the wheel.

PYTHON ?= python3
VENV ?= .venv
DATA ?=
PHOTOS ?=
ARGS ?=
# Tests run in as many processes as there are cores; each takes up to 1.6 GB. JOBS=0 runs them in one, for a debugger.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))

SOURCES := indexer server trainer clients tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# make_venv FOLDER: an environment with pip in it; Debian's Python may come without ensurepip, and has pip beside it.
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; set PYTHON=")'
@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(1); \
  else $(PYTHON) -m venv --without-pip $(1) && $(PYTHON) -m pip --python $(1)/bin/python install --quiet pip; fi
endef

$(VENV)/installed: pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[server,trainer,postgres,otel,dev]'
	@touch $@

.PHONY: demo
demo: $(VENV)/installed ## start a server, fill it, search it, leave a contact sheet (DATA=folder: your own photos)
	$(VENV)/bin/everlook demo $(if $(DATA),'$(DATA)') $(ARGS)

.PHONY: serve
serve: $(VENV)/installed ## run the server (ARGS="--port 50051 ...")
	$(VENV)/bin/everlook serve $(ARGS)

.PHONY: test
test: $(VENV)/installed ## run the tests (ARGS="-k name" JOBS=0); under ten minutes on two cores
	$(VENV)/bin/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/installed ## run the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

.PHONY: lint
lint: $(VENV)/installed ## ruff and mypy --strict, over everything
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

.PHONY: check
check: lint test ## all that a change must pass; the tests hold the import contracts and the committed stubs too

.PHONY: bench
bench: $(VENV)/installed ## measure the server against the same work in one process (ARGS="--help")
	$(VENV)/bin/python -m tests.bench $(ARGS)

.PHONY: learn
learn: $(VENV)/installed ## compare the ways to learn new categories on PHOTOS=folder, into learning-out (ARGS="--seeds 0 ...")
	@test -n '$(PHOTOS)' || { echo 'say where a folder of photos for each category is: make learn PHOTOS=folder' >&2; exit 2; }
	$(VENV)/bin/python -m trainer bench '$(PHOTOS)' --out learning-out $(ARGS)

.PHONY: stubs
stubs: $(VENV)/installed ## write the gRPC stubs from proto/everlook/v1/everlook.proto
	PYTHON=$(abspath $(VENV))/bin/python PATH=$(abspath $(VENV))/bin:$$PATH sh proto/generate.sh

.PHONY: pins
pins: ## resolve the dependencies anew and write constraints.txt (where pip finds a CPU build of PyTorch)
	$(call make_venv,$(VENV)-pins)
	$(VENV)-pins/bin/python -m pip install --quiet '.[server,trainer,postgres,otel,dev]'
	{ echo '# Every package of an installation at the version that was tested. Written by `make pins`.'; \
	  $(VENV)-pins/bin/python -m pip freeze --all --exclude pip --exclude everlook | sed 's/+.*//'; } > constraints.txt
	rm -rf $(VENV)-pins

.PHONY: venv-serve
venv-serve: ## install the server alone, without torch, into PREFIX=folder (the image's step)
	$(call require_prefix)
	$(call make_venv,$(PREFIX))
	$(PREFIX)/bin/python -m pip install --quiet -c constraints.txt '.[server,postgres,otel]'

.PHONY: venv-train
venv-train: ## install the trainer into PREFIX=folder (the image's step)
	$(call require_prefix)
	$(call make_venv,$(PREFIX))
	$(PREFIX)/bin/python -m pip install --quiet -c constraints.txt '.[trainer,postgres]'

require_prefix = @test -n '$(PREFIX)' || { echo 'say where: make $@ PREFIX=folder' >&2; exit 2; }

.PHONY: clean
clean: ## remove the environment, caches and builds
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist demo-out
	find $(SOURCES) proto -name __pycache__ -type d -prune -exec rm -rf {} +
