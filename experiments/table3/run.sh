#!/usr/bin/env bash
# Table 3: RACL against IMM. IMAGES=photos runs the scene lines offline (a stand-in, not to be compared).
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/table3}
python -m dua_lightning -m +experiment=catprior,transprior model=alexnet,vgg11 method=racl,imm importance=mas,fim \
  data/images="${IMAGES:-mit_indoor}" paths.output_dir="$OUT/scenes" "$@"
python -m dua_lightning -m +experiment=numbers method=racl,imm importance=mas,fim paths.output_dir="$OUT/numbers"
python -m dua_lightning.report.compare experiments/table3/expected.csv "$OUT/scenes" "$OUT/numbers"
