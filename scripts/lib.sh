# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts of this folder; sourced, never run.

# Root of the repository.
# shellcheck disable=SC2034  # used by those who source this
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# One line to standard error, with the script's name.
say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# An error that ends the script.
die() {
    say "error: $*"
    exit 1
}

# True when the command is on PATH.
have() { command -v "$1" >/dev/null 2>&1; }

# Ends the script unless it runs as root: namespaces, veths and AF_XDP sockets need it.
need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 needs root (network namespaces, AF_XDP sockets): run it with sudo"
}

# Seconds since start, with one decimal: seconds_since START, START from `now`.
now() { date +%s.%N; }
seconds_since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
