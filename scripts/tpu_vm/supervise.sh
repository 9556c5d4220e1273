#!/usr/bin/env bash
# Runs ti-jax on a spot slice until it is done: creates the slice, and when it is taken away or a worker is lost,
# starts again with --resume, so that no finished concept is redone and those under way go on from their checkpoint.
#
#   supervise.sh NAME --zone us-west4-a --type v5litepod-8 --version v2-alpha-tpuv5-lite --spot \
#       -- invert-many catalogue.yaml --config configs/many_pod.py --output gs://BUCKET/runs
#
# --zone, --type, --version, --project, --spot, --queued  as for create.sh
# --attempts N       give up after N runs (20)
# --dry-run          print the commands of one attempt only
#
# Ends with 0 when the run does. Ends with 1 when it fails twice in a row on a slice that is still there, for then the
# command is what is wrong, or concepts have failed; and after the last attempt. The slice is left for you to look at:
# delete.sh deletes it.

set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
source "$here/lib.sh"

read_options "$@"
require type version
[[ " ${rest[*]} " =~ [[:space:]]--output[[:space:]=]gs:// ]] ||
    fail "a slice that is taken away loses its disks: give --output gs://BUCKET/FOLDER after --"

common=("$name" --zone "$zone")
[[ -z $project ]] || common+=(--project "$project")
! $dry_run || common+=(--dry-run)
create=(--type "$type" --version "$version")
! $spot || create+=(--spot)
delete=()
if $queued; then
    create+=(--queued)
    delete+=(--queued)
fi
run=("$here/run.sh" "${common[@]}" -- "${rest[@]}" --resume)

begin() {
    "$here/create.sh" "${common[@]}" "${create[@]}" && "$here/setup.sh" "${common[@]}"
}

if $dry_run; then
    begin
    "${run[@]}"
    exit
fi

failures=0
for ((attempt = 1; attempt <= attempts; attempt++)); do
    found=$(state)
    if [[ $found != READY ]]; then
        [[ -z $found ]] || "$here/delete.sh" "${common[@]}" "${delete[@]}" || true
        if ! begin; then
            echo "supervise.sh: attempt $attempt: no slice to be had" >&2
            sleep "${TI_JAX_POLL_SECONDS:-30}"
            continue
        fi
    fi
    if "${run[@]}"; then
        echo "supervise.sh: done after $attempt attempt(s)" >&2
        exit 0
    fi
    found=$(state)
    echo "supervise.sh: attempt $attempt failed; $name is ${found:-gone}" >&2
    if [[ $found == READY ]]; then
        failures=$((failures + 1))
        ((failures < 2)) || break
    else
        failures=0
    fi
done
echo "supervise.sh: given up; what is finished is in the output folder" >&2
exit 1
