#!/usr/bin/env bash
# Real brains, both presets, and planted truth: the commands behind docs/benchmarks.md.
#   bash pipelines/benchmark/real_brains.sh DATA OUT
# DATA holds OpenNeuro ds002748 (with derivatives/ants_quickvbm) and ds000011.
set -euo pipefail
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
here=$(dirname "$(realpath "$0")")
recipes=$(dirname "$here")
depr=(--diagnosis-column group --rename gender=sex)
gm=(--derivative ants_quickvbm --suffix probseg --label GM --desc mod)
groups=(--background control --target depr)
# A CPU has to do: the small encoder, 4 mm, fewer epochs than a study would take.
small=(--set network.backbone=small --set volumes.spacing=4 --set training.epochs=40 --set training.batch_size=32)
tiny=(--set network.backbone=small --set volumes.spacing=4 --set training.epochs=10 --set training.batch_size=4)

step() { printf '\n== %s\n' "$*"; "$@" || echo "exit code $?"; }

step sepclr-med manifest "$data/ds002748" -o "$out/gm.tsv" --overwrite "${gm[@]}" "${depr[@]}"
step sepclr-med check "$out/gm.tsv" "${groups[@]}" -o "$out/gm_problems.tsv"
step sepclr-med split "$out/gm.tsv" -o "$out/gm_split.tsv" --test-size 0.33 --val-size 0 --stratify diagnosis,sex
step sepclr-med fit "$out/gm_split.tsv" "$out/runs/gm" -c "$recipes/vbm/recipe.yaml" "${groups[@]}" "${small[@]}"
step sepclr-med embed "$out/runs/gm"
step sepclr-med evaluate "$out/runs/gm"
scores=(--variables MADRS,BDI,Zung_SDS,RRS-sum --covariates age,sex)
step sepclr-med link "$out/runs/gm" "${scores[@]}" --over all
step sepclr-med link "$out/runs/gm" "${scores[@]}"
step sepclr-med explain "$out/runs/gm" --permutations 200
step sepclr-med report "$out/runs/gm"

step sepclr-med manifest "$data/ds002748" -o "$out/t1w.tsv" --overwrite "${depr[@]}" --site novosibirsk 2>/dev/null
step sepclr-med check "$out/t1w.tsv" "${groups[@]}"
step sepclr-med split "$out/t1w.tsv" -o "$out/t1w_split.tsv" --test-size 0.375 --val-size 0 --stratify diagnosis
step sepclr-med fit "$out/t1w_split.tsv" "$out/runs/t1w" -c "$recipes/t1w/recipe.yaml" "${groups[@]}" "${tiny[@]}"
step sepclr-med embed "$out/runs/t1w"
step sepclr-med evaluate "$out/runs/t1w"

step sepclr-med manifest "$data/ds002748" -o "$out/two_sites.tsv" --overwrite "${depr[@]}" --site novosibirsk 2>/dev/null
step sepclr-med manifest "$data/ds000011" -o "$out/two_sites.tsv" --diagnosis control --site texas --prefix tx --append \
  2>/dev/null
step sepclr-med check "$out/two_sites.tsv" "${groups[@]}"
step sepclr-med split "$out/two_sites.tsv" -o "$out/two_split.tsv" --test-size 0.4 --val-size 0 --stratify diagnosis
step sepclr-med fit "$out/two_split.tsv" "$out/runs/two" -c "$recipes/t1w/recipe.yaml" "${groups[@]}" "${tiny[@]}"
step sepclr-med embed "$out/runs/two"
step sepclr-med evaluate "$out/runs/two"

# Planted truth: the 21 controls and every second patient's map are the base; half of them become pseudo-patients.
awk -F'\t' 'NR == 1 || $3 == "control" || (++n % 2)' "$out/gm.tsv" > "$out/base.tsv"
step sepclr-med simulate "$out/planted" --base "$out/base.tsv" --base-diagnosis control,depr --train 2 --val 0 --test 1
step sepclr-med check "$out/planted/manifest.tsv"
step sepclr-med fit "$out/planted/manifest.tsv" "$out/runs/planted" -c "$recipes/vbm/recipe.yaml" "${small[@]}"
step sepclr-med embed "$out/runs/planted"
step sepclr-med evaluate "$out/runs/planted" --variables diagnosis,age,sex,base_diagnosis,subtype,severity,score
