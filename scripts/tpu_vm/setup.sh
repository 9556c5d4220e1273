#!/usr/bin/env bash
# Installs this checkout, as it is committed, on every worker of a slice; in place of what was installed before.
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
$dry_run || [[ -z $(git -C "$(dirname "$0")/../.." status --porcelain) ]] || say "what is not committed is left out"
perform git -C "$(dirname "$0")/../.." archive --format=tar.gz --output="$archive" HEAD
tpus tpu-vm scp "$archive" "$name:ti_jax.tar.gz" --worker=all
# uv brings its own Python: the images' (3.10 on Ubuntu 22.04) is older than JAX wants, and lacks venv.
unpack='mkdir -p ti_jax && tar -xzf ti_jax.tar.gz -C ti_jax'
# shellcheck disable=SC2016  # for the workers' shell
uv='curl -LsSf https://astral.sh/uv/install.sh | sh && PATH=$HOME/.local/bin:$PATH'
environment='uv venv --allow-existing --python 3.12 ti_jax-env'
install='uv pip install --python ti_jax-env -e "./ti_jax[tpu,gcs,data]"'
on_all_workers "$unpack && $uv && $environment && $install"
