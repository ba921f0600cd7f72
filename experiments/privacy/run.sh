#!/usr/bin/env bash
# What does a prior give away, and what does it cost to give less? Digits, three seeds; less than an hour on 2 cores.
#   OUT=outputs/privacy experiments/privacy/run.sh
# It needs dp-accounting and tenseal: pip install 'dua_lightning[privacy]'
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/privacy}
python -m dua_lightning +experiment=digits method=releases paths.output_dir="$OUT/releases" "$@"
python experiments/privacy/defences.py "$OUT" "$OUT/releases"
python experiments/privacy/where.py "$OUT"
python experiments/privacy/attacks.py --out "$OUT"
