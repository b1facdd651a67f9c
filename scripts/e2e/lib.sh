# Sourced by the end-to-end tests: a folder of their own that is cleaned up, and checks that say what they expected.
# shellcheck shell=bash
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

((EUID == 0)) && [[ -w /dev/fuse ]] || { echo "needs root and /dev/fuse" && exit 77; }
bin=${HYDFS_BIN:-$PWD/${CARGO_TARGET_DIR:-target}/release/hydfs}
[[ -x $bin ]] || { echo "there is no $bin: cargo build --release --workspace --bin hydfs" && exit 1; }
export HYDFS_BIN=$bin
unset HYDFS_DATA HYDFS_NAME HYDFS_JOIN HYDFS_CONFIG

tmp=$(mktemp -d /var/tmp/hydfs-e2e-XXXXXX)
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    local code=$?
    if ((code != 0)); then tail -n 20 "$tmp"/*/n*/log "$tmp"/*.log 2>/dev/null; fi
    for folder in "$tmp"/*/; do
        scripts/cluster down "$folder"
        end_member "$folder"
    done
    rm -rf --one-file-system -- "$tmp"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 143' TERM INT

# Ends the member whose data folder $1 is, if one runs there.
end_member() {
    local pid
    pid=$(cat "$1/supervisor.pid" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
    for _ in {1..150}; do [[ -e $1/supervisor.pid ]] || break && sleep 0.1; done
}

fail() { echo "FAILED: $*" && exit 1; }
step() { echo "-- $*"; }

# Fails unless $2 contains $1.
has() { [[ $2 == *"$1"* ]] || fail "expected '$1' in: $2"; }

# Waits at most $1 seconds for the command that follows.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || fail "not within its time: $*"
        sleep 0.1
    done
}
