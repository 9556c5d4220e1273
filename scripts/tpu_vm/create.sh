#!/usr/bin/env bash
# Creates a TPU VM or slice, and waits until it is there.
#
#   create.sh NAME --zone us-west4-a --type v5litepod-8 --version v2-alpha-tpuv5-lite --spot
#
# --zone ZONE        where
# --type TYPE        accelerator type
# --version VERSION  runtime version
# --project PROJECT  gcloud's own if not given
# --spot             cheaper, and may be taken away at any time
# --queued           through a queued resource: waits for capacity instead of failing
# --dry-run          print the commands only

set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

read_options "$@"
require type version
options=(--accelerator-type="$type")
! $spot || options+=(--spot)
if ! $queued; then
    tpus tpu-vm create "$name" "${options[@]}" --version="$version"
    exit
fi
tpus queued-resources create "$name" --node-id="$name" "${options[@]}" --runtime-version="$version"
$dry_run || await
