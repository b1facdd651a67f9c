#!/bin/sh
# Speaks the contract `lines` of jobs (docs/JOBS.md, "Executables"). An operator is one file and can source nothing that lies
# beside it: copy this to the beginning of yours, define `work LINE` below, which prints what comes of a line, and end with `run`.
#
# Where the spec says `state = true`: `work` calls `remember KEY VALUE` (no VALUE: forget it), and `told KEY VALUE`, defined
# below, is called for all that is remembered when the operator starts. For keys of one column that hold no tab.
MARK=$(printf '\036') STATE=$(printf '\037') TAB=$(printf '\t')

told() { :; }

remember() {
  case $1 in
    *[,\"]*) printf '%s"%s"\t%s\n' "$STATE" "$(printf '%s' "$1" | sed 's/"/""/g')" "$2" ;;
    *) printf '%s%s\t%s\n' "$STATE" "$1" "$2" ;;
  esac
}

run() {
  while IFS= read -r line; do
    case $line in
      "$MARK"*) printf '%s\n' "$line" ;;
      "$STATE\""*)
        key=${line#??} value=${line#*\""$TAB"}
        told "$(printf '%s' "${key%%\""$TAB"*}" | sed 's/""/"/g')" "$value"
        ;;
      "$STATE"*)
        key=${line#?}
        told "${key%%"$TAB"*}" "${line#*"$TAB"}"
        ;;
      *) work "$line" ;;
    esac
  done
}

