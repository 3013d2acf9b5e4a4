# `make help` lists what there is. The set-up itself is in scripts/setup.sh; each target runs it first,
# and it does nothing when it has nothing to do.
.POSIX:

# Words for the program behind the target: make test ARGS="-k workflow", make demo ARGS="--help".
ARGS =

.PHONY: help demo test check bench chaos setup clean

help:
	@echo 'make demo    try it: broker, stand-in ComfyUI and bridge in one terminal, nothing else needed'
	@echo 'make test    lint, types, layers, then all tests   (make test ARGS="-k workflow" for some)'
	@echo 'make check   lint, types and layers only'
	@echo 'make bench   the benchmarks'
	@echo 'make chaos   1,000 jobs while 200 things die or hang   (make chaos ARGS="--seed 7" repeats a run)'
	@echo 'make setup   only make the virtual environment, with all that tests need'
	@echo 'make clean   remove what the targets above have made, but never your data'
	@echo
	@echo 'They use the active virtual environment, else .venv, which they make.'
	@echo 'Another Python: make demo PYTHON=python3.12'

demo:
	@bin=$$(sh scripts/setup.sh demo) && exec "$$bin/comfy-bridge" demo $(ARGS)

setup:
	@sh scripts/setup.sh test >/dev/null

check:
	@bin=$$(sh scripts/setup.sh check) && sh scripts/check.sh "$$bin"

test:
	@bin=$$(sh scripts/setup.sh test) && sh scripts/check.sh "$$bin" && \
	PATH="$$PATH:/usr/local/sbin:/usr/sbin" "$$bin/python" -m pytest -n 3 --dist loadfile $(ARGS)

bench:
	@bin=$$(sh scripts/setup.sh test) && \
	PATH="$$PATH:/usr/local/sbin:/usr/sbin" "$$bin/python" -m benchmarks $(ARGS)

chaos:
	@bin=$$(sh scripts/setup.sh test) && \
	PATH="$$PATH:/usr/local/sbin:/usr/sbin" "$$bin/python" -m tests.chaos $(ARGS)

clean:
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find bridge tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
