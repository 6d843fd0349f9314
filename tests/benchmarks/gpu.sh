#!/usr/bin/env bash
# All speed measurements on a GPU, with one command: KDBENCH_DATA=DIR tests/benchmarks/gpu.sh > gpu.txt
# Needs kdbench installed (`pip install --no-deps .` will do) with torch, torchvision, timm and its light packages;
# no MLflow. A quarter of an hour or so.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}
export PYTHONPATH="../..${PYTHONPATH:+:$PYTHONPATH}"

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# Utilisation while the grids run: the share of time in which any kernel was at work.
nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -l 1 > gpu_utilisation.tmp &
watch=$!
trap 'kill $watch 2>/dev/null || true; rm -f gpu_utilisation.tmp' EXIT

for pair in "cifar_resnet32x4 cifar_resnet8x4" "cifar_resnet56 cifar_resnet20"; do
  read -r teacher student <<< "$pair"
  "$python" grid.py --device cuda --teacher "$teacher" --student "$student" --rounds 5 --steps 30
  "$python" engine_overhead.py --device cuda --teacher "$teacher" --student "$student" --rounds 50
  "$python" memory.py --device cuda --teacher "$teacher" --student "$student"
done
awk '{ sum += $1; n++ } END { if (n) printf "GPU busy: %.0f%% of the time, mean of %d seconds\n", sum / n, n }' gpu_utilisation.tmp
"$python" method_costs.py --device cuda
"$python" arithmetic.py --device cuda
"$python" teacher_cache.py --device cuda
# A full run of 240 epochs takes 240 x 50,000 / (images/s a member) seconds, alone (members 1) and for a cohort (9).
