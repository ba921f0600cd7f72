#!/bin/sh
# What `make run` runs: the digits and the photographs at the same time, since much of both uses one core alone.
# The photographs' lines come after the digits' tables. Arguments go to both.
set -u
cd "$(dirname "$0")/.."
lines=$(mktemp)
echo "the photographs run at the same time; they are shown after the digits"
python -m dua_lightning +experiment=photos "$@" >"$lines" 2>&1 &
photos=$!
# Whoever ends before the photographs stops them; they say how to continue, and the store keeps what they have.
trap 'kill "$photos" 2>/dev/null; wait "$photos"; rm -f "$lines"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
python -m dua_lightning +experiment=digits "$@" || exit
tail -n +1 -f "$lines" &
shown=$!
wait "$photos"
status=$?
# Time for the last lines to be shown.
sleep 1
kill "$shown"
exit "$status"
