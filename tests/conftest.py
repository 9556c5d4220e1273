"""Every test runs under the strictest settings the library promises to work with."""

import atexit
import logging
import os
import shutil
import tempfile
from glob import glob

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the tests' time is compilation: half of it is LLVM's optimisation, which changes no more than rounding, and
# much of the rest XLA's newer way to write fusions.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
# Programs are kept for this session: for all its processes, and not among the user's own. Workers find the folder set.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ti_jax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Two threads that wait for each other make PyTorch twenty times slower where other work shares the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of the compilers for `plan`, which are plugins of jax too, it would say at length that their devices are not here.
if not any(map(glob, ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*"))):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# The same examples in every run, however slow the machine.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")

# Shapes are checked in the tests only: a user never pays for it.
install_import_hook("ti_jax", "beartype.beartype")


@pytest.fixture(autouse=True, scope="session")
def strict_jax():
    """No silent change of dtype or rank."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def sd1_twin(tmp_path_factory):
    """A random pipeline like SD 1.5: PyTorch's and ours, of the same files."""
    return _twin("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def sd2_twin(tmp_path_factory):
    """A random pipeline like SD 2.1: PyTorch's and ours, of the same files."""
    return _twin("sd2", tmp_path_factory.mktemp("sd2"))


@pytest.fixture(scope="session")
def sdxl_twin(tmp_path_factory):
    """A random pipeline like SDXL: PyTorch's and ours, of the same files."""
    return _sdxl_twin(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def sdxl_twin_that_pools_at_the_end(tmp_path_factory):
    """The same, but the config of its second text encoder names the true id of the end."""
    from twins import VOCABULARY

    return _sdxl_twin(tmp_path_factory.mktemp("sdxl"), eos_token_id=VOCABULARY - 1)


def _sdxl_twin(folder, **options):
    from twins import make_sdxl_twin

    import ti_jax

    return make_sdxl_twin(folder, **options), ti_jax.load(folder, dtype="float32")


@pytest.fixture(scope="session")
def ldm_twin(tmp_path_factory):
    """A random pipeline like the paper's model: PyTorch's and ours, of the same files."""
    from twins import make_ldm_twin

    import ti_jax

    folder = tmp_path_factory.mktemp("ldm")
    return make_ldm_twin(folder), ti_jax.load(folder, dtype="float32")


def _twin(kind, folder):
    from twins import make_twin  # torch and diffusers are slow to import

    import ti_jax

    return make_twin(kind, folder), ti_jax.load(folder, dtype="float32")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder; gives exit status, stdout and stderr."""
    from ti_jax import cli

    monkeypatch.chdir(tmp_path)
    loggers = [logging.root, logging.getLogger("ti_jax")]
    levels = [logger.level for logger in loggers]

    def run(*arguments):
        capsys.readouterr()
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        return status, *capsys.readouterr()

    yield run
    for logger, level in zip(loggers, levels, strict=True):  # --debug is for the command, not for the next test
        logger.setLevel(level)
