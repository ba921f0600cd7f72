#!/usr/bin/env bash
# Table 3: RACL against IMM. IMAGES=photos runs the scene lines offline (a stand-in, not to be compared).
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/table3}
for benchmark in catprior transprior; do
  python -m dua_lightning -m +experiment=$benchmark model=alexnet,vgg11 method=racl,imm importance=mas,fim \
    data/images="${IMAGES:-mit_indoor}" paths.output_dir="$OUT/$benchmark" "$@"
done
if [ "${IMAGES:-mit_indoor}" = mit_indoor ]; then
  python -m dua_lightning -m +experiment=numbers method=racl,imm importance=mas,fim paths.output_dir="$OUT/numbers"
fi
python -m dua_lightning.report.published experiments/table3/expected.csv "$OUT"/*
