# Every target works alone on a fresh machine with Python 3.10 or newer and make; `make help` lists them.
# Python environments live in .venv and .venv-*; nothing is installed outside this folder.

PYTHON ?= python3
PIP_FLAGS := --quiet --no-input --disable-pip-version-check
PYTEST_FLAGS ?=
# pip builds the kernels with make where there is no ninja, and make takes one core unless told otherwise.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

VENV := .venv
PARITY_VENV := .venv-parity
PORTABLE_VENV := .venv-portable
OLDEST_VENV := .venv-oldest
SCREENSHOT := examples/screens/device-settings.png
PACKAGES := edge_runtime export/edge_export kernels/edge_kernels scripts pocket

.DELETE_ON_ERROR:
.PHONY: help demo test test-portable test-oldest parity sanitize emulate arm check format clean

help:
	@echo "make demo    export pocket, the model that ships, serve it, ask it about a screenshot (no network besides pip)"
	@echo "make test    all tests that need no torch; its last line says which packages would run what was skipped"
	@echo "make test-portable  the same, installed as on a machine without a C++ compiler"
	@echo "make test-oldest  the tests of what other packages do for us, with the oldest versions that pyproject.toml admits"
	@echo "make parity  the tests against transformers and optimum (installs torch, about 1 GB)"
	@echo "make sanitize  fuzz the kernels under address and undefined-behaviour sanitizers (needs cmake)"
	@echo "make emulate  the kernels of all x86 instruction sets, on any x86 processor (needs cmake, and Debian's libsimde-dev"
	@echo "             and qemu-user)"
	@echo "make arm     cross-compile the kernels for aarch64 and fuzz them under qemu (needs cmake and Debian's"
	@echo "             g++-aarch64-linux-gnu and qemu-user)"
	@echo "make check   format, lint and types"
	@echo "make format  rewrite the code as the formatter wants it"
	@echo "make clean   remove environments, caches and the demo's files"

demo: $(VENV)/.demo
	@$(VENV)/bin/python scripts/demo.py --screenshot $(SCREENSHOT) --folder demo

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m "not parity" $(PYTEST_FLAGS)

test-portable: $(PORTABLE_VENV)/.dev
	@! $(PORTABLE_VENV)/bin/python -c 'from edge_kernels.library import library_path; library_path()' 2>/dev/null || \
	    { echo "$(PORTABLE_VENV) has a kernel library; make clean"; exit 1; }
	$(PORTABLE_VENV)/bin/python -m pytest -m "not parity" $(PYTEST_FLAGS)

# Not pocket's recipe and our own kernels' arithmetic, which use little of other packages.
OLDEST_TESTS := $(addprefix tests/,bench cli devices engine export hostile model serving vision)
test-oldest: $(OLDEST_VENV)/.dev
	$(OLDEST_VENV)/bin/python -m pytest -m "not parity" $(OLDEST_TESTS) $(PYTEST_FLAGS)

parity: $(PARITY_VENV)/.verify
	$(PARITY_VENV)/bin/python -m pytest -m parity $(PYTEST_FLAGS)

# 20 and 5 are rounds of random shapes for every op and instruction set.
sanitize:
	cmake -S . -B build/sanitize -DEDGE_KERNEL_TESTS=ON -DEDGE_SANITIZE=address,undefined >/dev/null
	cmake --build build/sanitize
	build/sanitize/kernels/kernel_test 20

# qemu-user has AVX2 at most: what is above it is compiled to plain C++ (tests/kernels/csrc/emulated).
emulate:
	cmake -S . -B build/emulate -DEDGE_KERNEL_TESTS=ON -DEDGE_EMULATED_AVX512=ON >/dev/null
	cmake --build build/emulate --target kernel_test
	for cpu in Nehalem max; do qemu-x86_64 -cpu $$cpu build/emulate/kernels/kernel_test 10 || exit 1; done

arm:
	cmake -S . -B build/arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DEDGE_KERNEL_TESTS=ON >/dev/null
	cmake --build build/arm
	qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu build/arm/kernels/kernel_test 5

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(PACKAGES)

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(PARITY_VENV) $(PORTABLE_VENV) $(OLDEST_VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments: a stamp file says what is installed, so that the second call has nothing to do -----------------

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/pip
	@echo "installing edge-runtime into $(VENV) ..."
	@$(VENV)/bin/pip install $(PIP_FLAGS) -e ".[export]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	@echo "installing edge-runtime and its development tools into $(VENV) ..."
	@$(VENV)/bin/pip install $(PIP_FLAGS) -e ".[dev]"
	@touch $@ $(VENV)/.demo

# A compiler that cannot be run is none: the kernels are left out, as wherever there is none.
$(PORTABLE_VENV)/.dev: pyproject.toml | $(PORTABLE_VENV)/bin/pip
	@echo "installing edge-runtime without a compiler into $(PORTABLE_VENV) ..."
	@CXX=/nonexistent/c++ $(PORTABLE_VENV)/bin/pip install $(PIP_FLAGS) -e ".[dev]"
	@touch $@

$(OLDEST_VENV)/.dev: pyproject.toml scripts/oldest_versions.py $(VENV)/.dev | $(OLDEST_VENV)/bin/pip
	@echo "installing the oldest versions that pyproject.toml admits into $(OLDEST_VENV) ..."
	@$(VENV)/bin/python scripts/oldest_versions.py >$(OLDEST_VENV)/constraints.txt
	@$(OLDEST_VENV)/bin/pip install $(PIP_FLAGS) -c $(OLDEST_VENV)/constraints.txt -e ".[dev]"
	@touch $@

# torch first, and from its CPU index where that can be reached: what PyPI has for Linux brings gigabytes of CUDA.
$(PARITY_VENV)/.verify: pyproject.toml | $(PARITY_VENV)/bin/pip
	@echo "installing torch, transformers and optimum into $(PARITY_VENV) ..."
	@$(PARITY_VENV)/bin/pip install $(PIP_FLAGS) --retries 0 --index-url https://download.pytorch.org/whl/cpu \
	    torch==2.13.0 2>/dev/null || $(PARITY_VENV)/bin/pip install $(PIP_FLAGS) torch==2.13.0
	@$(PARITY_VENV)/bin/pip install $(PIP_FLAGS) -e ".[dev,verify]"
	@touch $@

%/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "edge-runtime needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	           "Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $*
