#!/usr/bin/env bash
# Train the five bundled models and put them into the package: build.sh [RUNS_FOLDER]
# Two chains of about equal length run side by side, one core each: at these sizes two processes of
# one thread give more tokens per second than one of two threads. Stopped? Run it again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
runs=${1:-runs/bundled_models}
python=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$runs"

"$python" "$here/train.py" "$runs" heavy light-8 2> "$runs/chain-1.log" &
first=$!
"$python" "$here/train.py" "$runs" heavy-b light-4 scorer 2> "$runs/chain-2.log" &
second=$!
trap 'kill "$first" "$second" 2> /dev/null || true' INT TERM
status=0
wait "$first" || status=$?
wait "$second" || status=$?
((status == 0)) || { echo "training stopped; see $runs/chain-*.log" >&2; exit "$status"; }

"$python" "$here/export.py" "$runs"
