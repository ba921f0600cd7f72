#!/usr/bin/env bash
# Every row of Tables 3 and 4 that needs no batch normalisation, on embedded digits, three seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/digits}
python -m dua_lightning +experiment=digits paths.output_dir="$OUT" "$@"
