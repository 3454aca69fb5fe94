# `make demo` and `make test` do everything on a fresh Debian/Ubuntu machine with python3 (>= 3.11) and make.
# TORCH=cpu (at first) takes PyTorch's CPU build, TORCH=cuda the one for CUDA 13, from then on. Everything is pinned with
# its hash in requirements/.
TORCH ?= $(or $(shell cat .venv/.torch 2>/dev/null),cpu)
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready-$(TORCH)

.PHONY: demo test lint types wheel setup metaworld clean

demo: setup
	$(VENV)/bin/tandem demo

test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The checkout's folder may have any name; mypy looks for a folder of the package's.
types: setup
	mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/tandem
	$(VENV)/bin/mypy

wheel: setup
	rm -rf build dist
	$(VENV)/bin/python -m build --wheel --no-isolation --outdir dist
	$(VENV)/bin/python tests/smoke_wheel.py dist

metaworld: setup
	bash scripts/machine/install_locked.sh $(VENV) requirements/metaworld.txt

setup: $(READY)

$(READY): requirements/packages.txt $(wildcard requirements/torch-$(TORCH).txt) pyproject.toml scripts/machine/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH="$(TORCH)" bash scripts/machine/setup.sh
	rm -f $(VENV)/.ready-*
	echo $(TORCH) > $(VENV)/.torch
	touch $@

clean:
	rm -rf $(VENV) build dist
