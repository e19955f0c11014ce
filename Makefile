# One verb a line. `make demo` and `make test` are all a fresh machine needs: python3 (3.10 or newer) and a network.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lab prepare clean

demo: $(READY)  ## train on the motion videos, test, and show the accuracy
	$(BIN)/vivit_train --data motion --out demo/vivit_motion.pth
	$(BIN)/vivit_test demo/vivit_motion.pth --report demo

test: $(READY)  ## all checks
	$(BIN)/python tools/check.py

lab: $(READY)  ## read and run the notebooks
	$(BIN)/jupyter lab nbs

prepare: $(READY)  ## run the notebooks that changed, export, clean, write README
	$(BIN)/python tools/prepare.py

clean:  ## remove what the other verbs made
	rm -rf $(VENV) demo build dist *.egg-info

$(READY): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit("python 3.10 or newer is needed, this is %d.%d; name another with PYTHON=..." % v[:2] if v < (3, 10) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "python3 has no venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,reference]'
	@touch $@
