#!/usr/bin/env bash
# Runs ti-jax on every worker of a slice, in the folder of the checkout.
#
#   run.sh NAME --zone us-west4-a -- invert-many catalogue.yaml --config configs/many_pod.py --output gs://BUCKET/runs
#
# --zone ZONE        where it is
# --project PROJECT  gcloud's own if not given
# --dry-run          print the commands only
#
# A slice of several workers needs --distributed among the words after --; a single VM does not.

set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

read_options "$@"
((${#rest[@]})) || fail "say what to run after --, such as: -- invert-many FOLDER --output gs://BUCKET/runs"
on_all_workers "cd ti_jax && ../ti_jax-env/bin/ti-jax$(printf ' %q' "${rest[@]}")"
