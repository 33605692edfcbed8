#!/bin/bash
# Everything side by side on one GPU: run.sh PACK OUT MINUTES. The encoder, nano_pixel and nano_dit with their adapters.
# A decoder's last fifth of the time sees the finished encoder.
set -euo pipefail
pack=$1 out=$2 minutes=$3 parts=()
part() { python3 -c "print(round($minutes * $1, 2))"; }
mkdir -p "$out/encoder" "$out/decoder"
export PYTHONUNBUFFERED=1 PYTHONPATH=.
python3 -m recipes.gpu.encoder "$pack" "$out/encoder" --max-minutes "$(part 0.8)" & parts+=($!)
python3 -m recipes.gpu.decoder nano_pixel "$pack" "$out/encoder/snapshot.pt" "$out/decoder" \
    --denoise-minutes "$(part 0.38)" --max-minutes "$minutes" --batch 48 --adapter-batch 24 & parts+=($!)
python3 -m recipes.gpu.decoder nano_dit "$pack" "$out/encoder/snapshot.pt" "$out/decoder" \
    --denoise-minutes "$(part 0.2)" --adapter-from "$(part 0.72)" --max-minutes "$minutes" --batch 32 --adapter-batch 16 & parts+=($!)
status=0
for one in "${parts[@]}"; do wait "$one" || status=$?; done
ls -l "$out"/*
exit $status
