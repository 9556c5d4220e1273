#!/usr/bin/env bash
# Deletes a TPU VM or slice, and all that is on its disks.
#
#   delete.sh NAME --zone us-west4-a
#
# --zone ZONE        where it is
# --project PROJECT  gcloud's own if not given
# --queued           it came through a queued resource, which is deleted with it
# --dry-run          print the commands only

set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

read_options "$@"
if $queued; then
    tpus queued-resources delete "$name" --force --quiet
else
    tpus tpu-vm delete "$name" --quiet
fi
