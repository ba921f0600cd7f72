#!/usr/bin/env bash
# What do a user's unlabelled images add to the best that a server does alone, by psi and by phi? Three seeds.
#   experiments/open_problem/run.sh --quick     photographs that come with the packages, less than 20 minutes on 2 cores
#   DATA=data experiments/open_problem/run.sh   real scenes, MobileNetV2 with ImageNet weights: hours, see README.md
# It goes on where it was stopped; further arguments go to every run.
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${DATA:-data}
run() { python -m dua_lightning "$@"; }
if [[ "${1:-}" == --quick ]]; then
  shift
  OUT=${OUT:-outputs/open_problem/photos}
  for study in null_priors open_problem; do
    run +experiment=photos method=$study paths.output_dir="$OUT/$study" "$@"
    run ledger "$OUT/$study"
  done
  run +experiment=photos method=open_problem simulate=both simulate.count=6 paths.output_dir="$OUT/simulated" "$@"
  run choose "$OUT/simulated" "$OUT/open_problem"
  exit
fi
OUT=${OUT:-outputs/open_problem}
# As in experiments/scenes: one draw, fewer extra pictures, a third of the paper's epochs.
for given in "transprior data.extra_per_task=0" "catprior data.images_per_preference=50"; do
  read -r benchmark extra <<< "$given"
  scenes=(+experiment=scenes data="$benchmark" "$extra" threads=1 data.iterations=1 adapt_after=last_task
    trainer.max_epochs=10 optimizer.lr=3.0e-3 suggested.penalty_limit=333 paths.data_dir="$DATA")
  for study in null_priors open_problem open_problem_others merges; do
    run "${scenes[@]}" method=$study 'seed=[1,2,3]' paths.output_dir="$OUT/$benchmark/$study" "$@"
    run ledger "$OUT/$benchmark/$study"
  done
  run "${scenes[@]}" method=open_problem 'seed=[1,2,3]' simulate=both simulate.count=6 \
    paths.output_dir="$OUT/$benchmark/simulated" "$@"
  run choose "$OUT/$benchmark/simulated" "$OUT/$benchmark/open_problem"
done
# How many images, with the paper's numbers of extra pictures; weak and strong transforms; users of both kinds at once.
common=(+experiment=scenes threads=1 data.iterations=1 adapt_after=last_task trainer.max_epochs=10 optimizer.lr=3.0e-3
  suggested.penalty_limit=333 'seed=[1,2,3]' paths.data_dir="$DATA")
maps=()
for given in "transprior data.extra_per_task=1000" "catprior data.images_per_preference=250"; do
  read -r benchmark extra <<< "$given"
  run "${common[@]}" data="$benchmark" "$extra" method=how_many paths.output_dir="$OUT/$benchmark/how_many" "$@"
  maps+=("$OUT/$benchmark/how_many")
done
for severity in 1 5; do
  run "${common[@]}" data=transprior data.extra_per_task=0 data.severity=$severity method=open_problem \
    paths.output_dir="$OUT/transprior/severity_$severity" "$@"
done
for concentration in 0.1 1 1000; do
  run "${common[@]}" data=population data.fewest_images=16 data.most_images=600 data.users=12 \
    data.concentration=$concentration method=open_problem paths.output_dir="$OUT/population/$concentration" "$@"
  maps+=("$OUT/population/$concentration")
done
python experiments/open_problem/maps.py "$OUT/maps" "${maps[@]}"
