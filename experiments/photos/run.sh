#!/usr/bin/env bash
# Table 4 in small, on embedded photographs: three seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/photos}
python -m dua_lightning +experiment=photos paths.output_dir="$OUT" "$@"
