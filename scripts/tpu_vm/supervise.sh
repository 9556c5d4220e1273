#!/usr/bin/env bash
# Runs ti-jax on a spot slice until it is done: creates the slice, and when it is taken away or a worker is lost,
# starts again with --resume, so that no finished concept is redone and those under way go on from their checkpoint.
#
#   supervise.sh NAME --zone us-west4-a --type v5litepod-8 --version v2-alpha-tpuv5-lite --spot \
#       -- invert-many gs://BUCKET/catalogue.yaml --config configs/many_pod.py --output gs://BUCKET/runs
#
# --zone, --type, --version, --project, --spot, --queued  as for create.sh
# --env NAME=VALUE   as for run.sh
# --attempts N       give up after N attempts (20), one of which may be to find no capacity
# --dry-run          print the commands of one attempt only
#
# Ends with 0 when the run does. Ends with 2 at once when ti-jax does, for then the command is wrong. Ends with 1 when
# ti-jax fails by itself (a status below 128) twice in a row on a slice that is still there, for then concepts have
# failed or the command asks for what is not there; and after the last attempt. The slice is left for you to look at,
# and is paid for until delete.sh deletes it. Call it again to go on: even the first run has --resume.

set -euo pipefail
here=$(dirname "$0")
# shellcheck source=lib.sh
source "$here/lib.sh"

read_options "$@"
require type version
words=" ${rest[*]} "
[[ $words =~ [[:space:]]--output[[:space:]=]gs:// ]] ||
    fail "a slice that is taken away loses its disks: give --output gs://BUCKET/FOLDER after --"
[[ $words != *" --overwrite "* ]] ||
    fail "--overwrite would begin anew at every attempt: choose another --output, or delete that folder first"
# gcloud itself calls the command again when a connection breaks, so the first run needs --resume too.
[[ $words == *" --resume "* ]] || rest+=(--resume)

common=("$name" --zone "$zone")
[[ -z $project ]] || common+=(--project "$project")
! $dry_run || common+=(--dry-run)
create=("$here/create.sh" "${common[@]}" --type "$type" --version "$version")
delete=("$here/delete.sh" "${common[@]}")
! $spot || create+=(--spot)
if $queued; then
    create+=(--queued)
    delete+=(--queued)
fi
setup=("$here/setup.sh" "${common[@]}")
run=("$here/run.sh" "${common[@]}" --replace)
for variable in ${variables[@]+"${variables[@]}"}; do
    run+=(--env "$variable")
done
run+=(-- "${rest[@]}")

if $dry_run; then
    "${create[@]}"
    "${setup[@]}"
    "${run[@]}"
    exit
fi

installed=false

# Makes the slice ready to run, if it is not.
prepare() {
    local found
    found=$(state)
    if [[ $found != READY ]]; then
        installed=false
        if $queued && [[ $found =~ ^(ACCEPTED|WAITING_FOR_RESOURCES|PROVISIONING|CREATING)$ ]]; then
            await || return # it keeps its place in the queue
        else
            [[ -z $found ]] || "${delete[@]}" || true
            "${create[@]}" || return
        fi
    fi
    $installed || "${setup[@]}" || return
    installed=true
}

interrupted() {
    say "interrupted; look after $name, where the run may go on"
    exit 130
}

# gcloud takes Ctrl-C for itself, and would leave the loop running.
trap interrupted INT TERM
failures=0
for ((attempt = 1; attempt <= attempts; attempt++)); do
    if ! prepare; then
        say "attempt $attempt of $attempts: $name could not be made ready"
        sleep "$pause"
        continue
    fi
    status=0
    "${run[@]}" || status=$?
    ((status != 130)) || interrupted # the shell may have lost the signal while it waited
    if ((status == 0)); then
        say "done at attempt $attempt"
        exit 0
    fi
    found=$(state)
    say "attempt $attempt of $attempts failed with status $status; $name is ${found:-gone}"
    ((status != 2)) || fail "the command is wrong; $name is still there"
    if [[ $found == READY ]] && ((status < 128)); then
        ((++failures < 2)) || break
    else
        failures=0
        sleep "$pause"
    fi
done
say "given up; what is finished is in the output folder. Look after $name, which may still cost money"
exit 1
