# twodim: the front door. `make` lists the targets; `make run` and `make test` need nothing before them.

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help setup run test lint bench verilog waves clean

# The environment is .venv and nothing else, whatever is active in the caller's shell.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LOG := $(VENV)/setup.log
TRACE ?= cocotb_tests/data/nvme_huge.jsonl.gz
SIM ?= verilator
PRESET ?= default
ARGS ?=

help: ## list the targets
	@echo "twodim: IOMMU RTL in lock-step with a golden model of KVM's page tables"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: SIM=verilator|icarus  TRACE=recording  PRESET=name  ARGS='more options'"

setup: ## create .venv, install the pinned tools, look for the simulators
	@PYTHON='$(PYTHON)'; \
	if [ -z "$$PYTHON" ]; then \
	  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      PYTHON=$$candidate; break; fi; \
	  done; \
	fi; \
	if [ -z "$$PYTHON" ] || ! "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	  echo "twodim needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || echo none). Set PYTHON=/path/to/python3." >&2; \
	  exit 1; \
	fi; \
	mkdir -p $(VENV); \
	missing=''; \
	command -v g++ >/dev/null 2>&1 || missing="$$missing g++"; \
	command -v perl >/dev/null 2>&1 || missing="$$missing perl"; \
	headers='#include <lz4.h>\n#include <zlib.h>\n'; \
	command -v iverilog >/dev/null 2>&1 || missing="$$missing iverilog"; \
	if ! printf "$$headers" | g++ -E -x c++ - >/dev/null 2>&1; then missing="$$missing liblz4-dev zlib1g-dev"; fi; \
	if [ -n "$$missing" ] && [ ! -e $(VENV)/.apt-tried ] && command -v apt-get >/dev/null 2>&1; then \
	  root=''; may=no; \
	  if [ "$$(id -u)" = 0 ]; then may=yes; \
	  elif command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; then may=yes; root='sudo -n'; fi; \
	  if [ $$may = yes ]; then \
	    echo "Installing system packages:$$missing"; \
	    { $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing || \
	      { $$root env DEBIAN_FRONTEND=noninteractive apt-get update -q && \
	        $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }; \
	    } >$(VENV)/apt.log 2>&1 </dev/null || echo "apt-get could not install them (see $(VENV)/apt.log)."; \
	    touch $(VENV)/.apt-tried; \
	  fi; \
	fi; \
	for tool in g++ perl; do \
	  if ! command -v $$tool >/dev/null 2>&1; then \
	    echo "twodim needs $$tool (Verilator compiles the RTL with it). Debian: apt-get install g++ perl" >&2; exit 1; \
	  fi; \
	done; \
	if ! command -v iverilog >/dev/null 2>&1; then \
	  echo "Icarus is not installed: only Verilator will be used. Debian: apt-get install iverilog"; fi; \
	if ! printf "$$headers" | g++ -E -x c++ - >/dev/null 2>&1; then \
	  echo "lz4.h or zlib.h is missing: Verilator writes VCD instead of FST. Debian: apt-get install liblz4-dev zlib1g-dev"; fi; \
	want="$$(cksum < pyproject.toml) $(CURDIR)"; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" = "$$want" ] && $(BIN)/python -c '' >/dev/null 2>&1; then exit 0; fi; \
	echo "Setting up $(VENV) (one to three minutes, once)"; \
	rm -f $(STAMP); \
	if ! "$$PYTHON" -m venv --clear $(VENV) >/tmp/twodim-venv.$$$$ 2>&1; then \
	  cat /tmp/twodim-venv.$$$$ >&2; rm -f /tmp/twodim-venv.$$$$; \
	  echo "Python cannot create a virtual environment. Debian: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	rm -f /tmp/twodim-venv.$$$$; \
	if ! $(BIN)/python -m pip install --quiet --editable . >$(LOG) 2>&1 </dev/null; then \
	  tail -n 15 $(LOG) >&2; \
	  echo "pip could not install the pinned packages of pyproject.toml (whole log: $(LOG))" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys, find_libpython; sys.exit(find_libpython.find_libpython() is None)'; then \
	  echo "This Python has no shared libpython, which cocotb loads. Debian: apt-get install libpython3-dev" >&2; exit 1; \
	fi; \
	printf '%s' "$$want" > $(STAMP)

run: setup ## replay a DMA recording of a real machine on the RTL, in lock-step with the golden model
	@$(BIN)/twodim replay $(TRACE) --sim $(SIM) $(ARGS)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint ## lint, then all tests, in every simulator that is installed
	@$(BIN)/python -m pytest $(ARGS)

bench: setup ## measure the RTL against its bounds and the simulation lanes against each other
	@$(BIN)/twodim bench $(ARGS)

verilog: setup ## write the Verilog of PRESET to build/
	@$(BIN)/twodim verilog --preset $(PRESET) $(ARGS)

waves: setup ## the replay of `make run`, with a wave dump in waves/
	@$(BIN)/twodim replay $(TRACE) --sim $(SIM) --waves $(ARGS)

clean: ## remove everything that was generated, .venv too
	@rm -rf .venv sim_build build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -f waves/*.vcd waves/*.fst
	@find pymodel hdl cocotb_tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
