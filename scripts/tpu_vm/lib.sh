# shellcheck shell=bash
# What the launchers share: options, running commands or printing them, and the state of a slice.

# shellcheck disable=SC2034  # the scripts that source this read them
name="" zone="" project="" type="" version="" spot=false queued=false replace=false dry_run=false attempts=20 variables=() rest=()
pause=${TI_JAX_POLL_SECONDS:-30}

say() {
    echo "${0##*/}: $1" >&2
}

fail() {
    say "$1"
    exit 2
}

# shellcheck disable=SC2034  # as above
# Reads "NAME --zone ZONE [options] [-- WORDS]"; --help prints the comment at the top of the script. All scripts read
# the same options, so that one set of them does for all.
read_options() {
    while (($#)); do
        case "$1" in
        --help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --zone | --project | --type | --version | --attempts)
            [[ ${2:--} != -* ]] || fail "$1 needs a value"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --env)
            [[ ${2:-} =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env wants NAME=VALUE"
            variables+=("$2")
            shift
            ;;
        --spot) spot=true ;;
        --queued) queued=true ;;
        --replace) replace=true ;;
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

# Runs a command; in a dry run prints it instead, quoted for a shell.
perform() {
    if $dry_run; then
        local words
        printf -v words ' %q' "$@"
        echo "${words# }"
    else
        "$@"
    fi
}

# gcloud compute tpus GROUP VERB ..., in the zone and project.
tpus() {
    local command=(gcloud compute tpus "$@" --zone="$zone")
    [[ -z $project ]] || command+=(--project="$project")
    perform "${command[@]}"
}

# A command on every worker of the slice. A worker that is gone is noticed in minutes, not when TCP gives it up.
on_all_workers() {
    tpus tpu-vm ssh "$name" --worker=all --ssh-flag="-o ServerAliveInterval=30 -o ConnectTimeout=30" --command="$1"
}

# READY, PREEMPTED, ... as Cloud TPU calls it; where there is no VM, the state of the queued resource it is to come
# through; nothing if there is none of either.
state() {
    local found
    found=$(tpus tpu-vm describe "$name" --format="value(state)" 2>/dev/null) || found=""
    if [[ -z $found ]] && $queued; then
        found=$(tpus queued-resources describe "$name" --format="value(state.state)" 2>/dev/null) || found=""
    fi
    echo "$found"
}

# Waits until the queued resource has its slice; fails where it never will have it, or cannot be asked.
await() {
    local where
    while true; do
        where=$(tpus queued-resources describe "$name" --format="value(state.state)") || return
        case "$where" in
        ACTIVE) return ;;
        FAILED | SUSPENDING | SUSPENDED | DELETING)
            say "the queued resource $name is $where: delete it by delete.sh --queued and ask again"
            return 1
            ;;
        esac
        say "$name is $where"
        sleep "$pause"
    done
}
