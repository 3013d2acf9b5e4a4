#!/bin/sh
# Makes the password file of the three roles: bridge, commander, watcher.
#
#   mosquitto/make-passwords.sh           write mosquitto/data/passwords
#   mosquitto/make-passwords.sh FILE      write FILE
#   mosquitto/make-passwords.sh --env     write no file; print three new passwords as lines for .env
#
# A password comes from MQTT_BRIDGE_PASSWORD, MQTT_COMMANDER_PASSWORD, MQTT_WATCHER_PASSWORD; one that is not
# set is made up and printed, this once. A file that exists is replaced only when all three are set.
# Needs mosquitto_passwd (on Debian in the package mosquitto), or docker.
set -eu
umask 077

roles='bridge commander watcher'

die() {
    echo "make-passwords: $*" >&2
    exit 1
}

name_of() { echo "MQTT_$(echo "$1" | tr '[:lower:]' '[:upper:]')_PASSWORD"; }
given() { printenv "$(name_of "$1")" || true; }
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# Reads lines user:password, writes lines user:hash.
hash_passwords() {
    if command -v mosquitto_passwd >/dev/null; then
        cat >"$work/passwords"
        mosquitto_passwd -U "$work/passwords" >&2
        cat "$work/passwords"
    elif command -v docker >/dev/null; then
        docker run --rm --interactive --entrypoint sh "${MOSQUITTO_IMAGE:-eclipse-mosquitto:2.0}" -c \
            'f=$(mktemp) && cat >"$f" && mosquitto_passwd -U "$f" >&2 && cat "$f"'
    else
        die "neither mosquitto_passwd nor docker is here. On Debian and Ubuntu: sudo apt-get install mosquitto"
    fi
}

# Debian keeps servers' tools in folders that are not on the PATH of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin"

case ${1:-} in
--env)
    for role in $roles; do
        echo "$(name_of "$role")=$(random)"
    done
    exit
    ;;
-*) die "usage: make-passwords.sh [FILE | --env]" ;;
esac

file=${1:-$(dirname "$0")/data/passwords}
for role in $roles; do
    password=$(given "$role")
    case $password in
    '')
        [ ! -e "$file" ] || die "$file exists. Remove it to make new passwords, or set $(name_of "$role")."
        ;;
    *:* | *[[:cntrl:]]*) die "$(name_of "$role") must not hold a colon or a control character." ;;
    esac
    # mosquitto_passwd reads lines of at most 255 characters.
    [ "${#password}" -le 200 ] || die "$(name_of "$role") must not be longer than 200 characters."
done

# The broker reads the file as user mosquitto, also when root starts it, and writes its state beside it.
own() { if [ "$(id -u)" = 0 ] && id mosquitto >/dev/null 2>&1; then chown mosquitto:mosquitto "$1"; fi; }

folder=$(dirname "$file")
if [ ! -d "$folder" ]; then
    mkdir -p "$folder"
    own "$folder"
fi
work=$(mktemp -d "$folder/.make-passwords.XXXXXX")
trap 'rm -rf "$work"' EXIT

for role in $roles; do
    password=$(given "$role")
    if [ -z "$password" ]; then
        password=$(random)
        echo "$role: $password" >>"$work/made"
    fi
    printf '%s:%s\n' "$role" "$password"
done >"$work/plain"
hash_passwords <"$work/plain" >"$work/hashed"
[ "$(grep -c '^[a-z]*:\$[0-9]' "$work/hashed")" = 3 ] || die "mosquitto_passwd did not make three hashes."

own "$work/hashed"
mv "$work/hashed" "$file"
if [ -e "$work/made" ]; then
    echo "New passwords, shown only now:"
    cat "$work/made"
fi
