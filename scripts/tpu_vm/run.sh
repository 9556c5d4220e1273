#!/usr/bin/env bash
# Runs ti-jax on every worker of a slice, in the folder of the checkout.
#
#   run.sh NAME --zone us-west4-a -- invert-many gs://BUCKET/catalogue.yaml --config configs/many_pod.py --output gs://BUCKET/runs
#
# --zone ZONE        where it is
# --project PROJECT  gcloud's own if not given
# --env NAME=VALUE   a variable for it, such as HF_TOKEN=... or JAX_COMPILATION_CACHE_DIR=gs://BUCKET/compiled; repeat
#                    for several
# --replace          first end a ti-jax that still runs there, which saves: only one can have the TPU
# --dry-run          print the commands only
#
# invert-many on a slice of several workers needs --distributed among the words after --; on a single VM it does not.
# Ends with the status of the first worker, in their order, that failed; 255 if it could not be reached.

set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

read_options "$@"
((${#rest[@]})) || fail "say what to run after --, such as: -- invert-many FOLDER --output gs://BUCKET/runs"
# shellcheck disable=SC2016  # for the workers' shell
{
    end_other='{ for i in $(seq 60); do kill $(cat ti_jax.pid) || break; sleep 1; done; kill -KILL $(cat ti_jax.pid); }'
    remote='echo $$ > ti_jax.pid && cd ti_jax && exec'
}
((${#variables[@]} == 0)) || remote+=" env$(printf ' %q' "${variables[@]}")"
remote+=" ../ti_jax-env/bin/ti-jax"
! $replace || remote="$end_other 2>/dev/null; $remote"
on_all_workers "$remote$(printf ' %q' "${rest[@]}")"
