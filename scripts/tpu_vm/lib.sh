# shellcheck shell=bash
# What the launchers share: options, running gcloud or printing it, and the state of a slice.

# shellcheck disable=SC2034  # the scripts that source this read them
name="" zone="" project="" type="" version="" spot=false queued=false dry_run=false attempts=20 rest=()

fail() {
    echo "${0##*/}: $1" >&2
    exit 2
}

# shellcheck disable=SC2034  # as above
# Reads "NAME --zone ZONE [options] [-- WORDS]"; --help prints the comment at the top of the script.
read_options() {
    while (($#)); do
        case "$1" in
        --help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --zone | --project | --type | --version | --attempts)
            (($# > 1)) || fail "$1 needs a value"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --spot) spot=true ;;
        --queued) queued=true ;;
        --dry-run) dry_run=true ;;
        --)
            shift
            rest=("$@")
            break
            ;;
        -*) fail "there is no option $1 (--help lists them)" ;;
        *)
            [[ -z $name ]] || fail "one name is enough: $name or $1?"
            name=$1
            ;;
        esac
        shift
    done
    [[ -n $name ]] || fail "name the TPU VM"
    [[ -n $zone ]] || fail "say where by --zone, such as --zone us-west4-a"
    [[ $attempts =~ ^[1-9][0-9]*$ ]] || fail "--attempts must be a number above 0"
}

require() {
    local option
    for option in "$@"; do
        [[ -n ${!option} ]] || fail "--$option is missing (--help shows an example)"
    done
}

# gcloud compute tpus GROUP VERB ..., in the zone and project; only printed in a dry run.
tpus() {
    local command=(gcloud compute tpus "$@" --zone="$zone")
    [[ -z $project ]] || command+=(--project="$project")
    if $dry_run; then
        local words
        printf -v words ' %q' "${command[@]}"
        echo "${words# }"
    else
        "${command[@]}"
    fi
}

# A command on every worker of the slice.
on_all_workers() {
    tpus tpu-vm ssh "$name" --worker=all --command="$1"
}

# READY, PREEMPTED, ... as Cloud TPU calls it; nothing if there is no such VM.
state() {
    tpus tpu-vm describe "$name" --format="value(state)" 2>/dev/null || true
}
