# `make chat` opens the chat; `make test` checks everything. Both set up what they need the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# An older processor: torch, its oneDNN and chatlm's own kernel without AVX-512.
LIMITS_x86_64 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 CC="$(CC) -mno-avx512f"
LIMITS := $(LIMITS_$(shell uname -m))
# The numeric tests, without those that take minutes where bfloat16 is emulated, and those whose result does not
# depend on the limits: they choose the kernel's compiler flags themselves.
NUMERIC := $(addprefix tests/engine/test_,native.py cuda_graph.py logprobs.py local.py load.py architectures.py::test_a_warm_second_turn_gives_the_logits_of_transformers adapters.py::test_an_adapter_adds_what_peft_adds)
SLOW_BELOW_AVX512 := [transformers or reused_prefix or reading_ahead or alpaca
UNLIMITED := touches_no_memory or older_processors or compiled_once
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" --dist worksteal --basetemp "$$(mktemp -d)"
# Four workers for two cores: many tests wait for a screen or a process. The numeric tests do not.
WORKERS := 4
NUMERIC_WORKERS := 2

.PHONY: chat test check-slow format wheels clean help

chat: $(VENV)/.installed
	@$(BIN)/chatlm models pull smollm2-135m-instruct
	@$(BIN)/chatlm

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
ifneq ($(LIMITS),)
	$(LIMITS) $(PYTEST) --numprocesses $(NUMERIC_WORKERS) $(NUMERIC) -k 'not ($(SLOW_BELOW_AVX512) or $(UNLIMITED))'
endif
	$(PYTEST) --numprocesses $(WORKERS)

check-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Compiled by zig for all of them, on any machine; see chatlm/engines/native/csrc/targets.toml.
wheels: $(VENV)/.made
	@for platform in linux-x86_64 linux-aarch64 darwin-arm64; do \
	  CHATLM_WHEEL=$$platform $(BIN)/python -m pip wheel --no-deps --wheel-dir dist . || exit 1; done

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "chatlm needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	@touch $@

# PyPI's torch for Linux has CUDA and is much larger; without an NVIDIA card the one for processors is taken. Where its
# index cannot be reached, PyPI's is.
CPU_TORCH := https://download.pytorch.org/whl/cpu
$(VENV)/.torch: | $(VENV)/.made
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 0 --timeout 15 \
	  --index-url $(CPU_TORCH) 'torch>=2.6' 2>$(VENV)/torch.log || \
	  echo "$(CPU_TORCH) cannot be used (see $(VENV)/torch.log); PyPI's torch is taken, which has CUDA: 6 GB in all."
endif
	@touch $@

$(VENV)/.installed: pyproject.toml hatch_build.py | $(VENV)/.torch
	@echo "Installing chatlm into $(VENV); torch is large, the first time takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml hatch_build.py | $(VENV)/.torch
	@echo "Installing chatlm and its development tools into $(VENV)."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help:
	@echo "make chat        set up, fetch the default model once, open the chat"
	@echo "make test        format, lint, types, layers, tests"
	@echo "make check-slow  the thorough checks that make test leaves out"
	@echo "make wheels      build wheels with compiled decoders into dist/"
	@echo "make format      let ruff rewrite what it can"
