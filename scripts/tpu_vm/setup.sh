#!/usr/bin/env bash
# Installs this checkout, as it is committed, on every worker of a slice.
#
#   setup.sh NAME --zone us-west4-a
#
# --zone ZONE        where it is
# --project PROJECT  gcloud's own if not given
# --dry-run          print the commands only

set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

read_options "$@"
archive=${TMPDIR:-/tmp}/ti_jax-$name.tar.gz
trap 'rm -f "$archive"' EXIT
git -C "$(dirname "$0")/../.." archive --format=tar.gz --output="$archive" HEAD
tpus tpu-vm scp "$archive" "$name:ti_jax.tar.gz" --worker=all
unpack='mkdir -p ti_jax && tar -xzf ti_jax.tar.gz -C ti_jax'
install='python3 -m venv ti_jax-env && ti_jax-env/bin/pip install --quiet -e "./ti_jax[tpu,gcs,data]"'
on_all_workers "$unpack && $install"
