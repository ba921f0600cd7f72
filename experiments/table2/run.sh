#!/usr/bin/env bash
# Table 2: MAS-IMM and FIM-IMM. IMAGES=photos runs the scene lines offline (a stand-in, not to be compared).
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/table2}
python -m dua_lightning -m +experiment=catprior,transprior model=alexnet,vgg11 method=imm importance=mas,fim \
  data/images="${IMAGES:-mit_indoor}" paths.output_dir="$OUT/scenes" "$@"
python -m dua_lightning -m +experiment=numbers method=imm importance=mas,fim paths.output_dir="$OUT/numbers"
python -m dua_lightning.report.compare experiments/table2/expected.csv "$OUT/scenes" "$OUT/numbers"
