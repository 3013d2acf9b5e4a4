#!/bin/sh
# Usage: scripts/check.sh BIN     BIN: the bin folder of the virtual environment
# Lint, format, types, layers; stops at the first that fails and says how to run it alone.
set -u
bin=$1

step() {
    name=$1
    shift
    if ! output=$("$@" 2>&1); then
        printf '%s\n%s: failed; alone: %s\n' "$output" "$name" "$*" >&2
        exit 1
    fi
    echo "$name: ok"
}

step 'ruff check' "$bin/ruff" check .
step 'ruff format' "$bin/ruff" format --check .
step 'mypy' "$bin/mypy"
step 'import-linter' "$bin/lint-imports"
