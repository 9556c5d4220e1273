"""The `ti-jax` command: what its verbs take and say. The work is done by the functions of the Python interface.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro

from ti_jax.config import InversionConfig
from ti_jax.config_file import as_options, read_config
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from ti_jax.concepts.concept import Concept
    from ti_jax.inversion.result import Result

Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Common:
    """What every verb takes."""

    model: str = "tiny"
    """`tiny` (bundled), an id on the hub or a folder in diffusers format."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    variant: str | None = None
    """Of the weight files, such as `fp16`."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Unset: what suits the device."""
    deterministic: bool = False
    """Same bits in every run on a GPU too, for some speed; elsewhere they are the same always."""
    output: str | None = None
    """Folder for results."""
    config: str | None = None
    """A Python file whose `get_config()` gives settings, which other options override: an `InversionConfig` for invert,
    a dictionary of options for generate."""
    json: bool = False
    """Print the result as JSON on stdout."""
    debug: bool = False
    """Show tracebacks and debug messages."""


@dataclass(frozen=True)
class Invert:
    """Learn a new word from 3 to 5 pictures of a thing or a style."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """A folder, files, or `bundled:NAME` (fox, tabby, blob)."""
    token: str
    """The new word, such as "<fox>"; not a word that the model knows."""
    init: str
    """A word or phrase that comes close, `random`, or an embedding file to go on from."""
    name: str | None = None
    """Of the concept: its folder, its file and its random stream. Unset: the letters and digits of the token."""
    resume: bool = False
    """Go on with the run in the output folder, to the very same vectors."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    common: Annotated[Common, tyro.conf.arg(name="")] = Common()
    settings: Annotated[InversionConfig, tyro.conf.arg(name="")] = field(default_factory=InversionConfig)

    def run(self) -> None:
        """Learns, writes the run folder, and says how to use what is in it."""
        import ti_jax
        from ti_jax.inversion.invert import concept_name
        from ti_jax.terminal import show_progress

        if not self.pictures:
            raise UserError("name the pictures: a folder, files, or bundled:fox")
        name = self.name or concept_name(self.token)
        if name != concept_name(name):
            raise UserError(
                f"the name {name!r} is one of files: give letters, digits, - and _, such as {concept_name(name)}"
            )
        output = self.common.output or f"runs/{name}"
        pipeline = _load(self.common)
        with _Stop() as stop, show_progress() as on_progress:
            result = ti_jax.invert(
                pipeline,
                self.pictures[0] if len(self.pictures) == 1 else list(self.pictures),
                placeholder=self.token,
                initializer=self.init,
                config=self.settings,
                name=name,
                output=output,
                resume=self.resume,
                overwrite=self.overwrite,
                on_progress=on_progress,
                should_stop=stop,
            )
        self._say(result, name, output, pipeline.inversion_defaults.preview_prompts[0])

    def _say(self, result: Result, name: str, output: str, example: str) -> None:
        file = f"{output}/learned_embeds.safetensors"
        if self.common.json:
            summary = {
                "name": name,
                "token": self.token,
                "status": "finished",
                "steps": result.history.steps,
                "loss": result.history.loss[-1],
                "seconds": result.seconds,
                "warnings": result.warnings,
                "file": file,
            }
            print(json.dumps(summary))
            return
        from ti_jax.weights.hub import resolve

        print(f"learned {self.token} in {result.history.steps} steps: {file}")
        print(f"what it looks like: {output}/contact_sheet.png")
        model = self.common.model
        command = ["ti-jax", "generate", example.replace("{}", self.token), "--concept", output, "--model", model]
        print(f"use it: {shlex.join(command)}")
        print("in diffusers:")
        print("  from diffusers import StableDiffusionPipeline")
        folder = str(resolve(model)) if model == "tiny" else model
        print(f"  pipe = StableDiffusionPipeline.from_pretrained({folder!r})")
        print(f"  pipe.load_textual_inversion({file!r})")
        print(f"in A1111: copy {output}/{name}.safetensors to embeddings/ and write {name} in the prompt")
        print(f"in ComfyUI: copy it to models/embeddings/ and write embedding:{name} in the prompt")


@dataclass(frozen=True)
class Generate:
    """Draw pictures of prompts that may hold learned words."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What to draw."""
    concept: Repeated = ()
    """An embedding file or a run folder; repeat for several."""
    token: str | None = None
    """Call the concept by this word instead of the file's own (one concept only)."""
    negative_prompt: str = ""
    """What not to draw."""
    steps: int = 50
    """Sampling steps."""
    guidance: float = 5.0
    """Scale of classifier-free guidance; 1 and below switch it off."""
    sampler: str = "ddim"
    """ddim, ddpm, dpm++ or euler."""
    eta: float = 0.0
    """Noise of DDIM: 0 none, 1 as much as DDPM."""
    num_images: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    """Picture i depends on the seed and i alone."""
    height: int | None = None
    """Pixels. Unset: the model's own."""
    width: int | None = None
    """Pixels. Unset: the model's own."""
    batch_size: int | None = None
    """Pictures drawn at a time. Unset: all of them."""
    common: Annotated[Common, tyro.conf.arg(name="")] = Common()

    def run(self) -> None:
        """Draws, and writes PNGs that say how they were made."""
        from etils import epath

        import ti_jax
        from ti_jax.output import write_pictures

        if not self.prompts:
            raise UserError('name at least one prompt, such as "a photo of <fox>"')
        if self.token is not None and len(self.concept) != 1:
            raise UserError("--token renames one concept: give exactly one --concept with it")
        output = epath.Path(self.common.output or "images")
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file: --output is a folder")
        pipeline = _load(self.common)
        concepts = [_load_concept(path, self.token) for path in self.concept]
        images = ti_jax.generate(
            pipeline,
            list(self.prompts),
            concepts=concepts,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            sampler=self.sampler,
            negative_prompt=self.negative_prompt,
            height=self.height,
            width=self.width,
            num_images=self.num_images,
            eta=self.eta,
            batch_size=self.batch_size,
        )
        settings = dataclasses.asdict(self)
        settings.pop("common")
        settings["model"] = self.common.model
        prompts = [prompt for prompt in self.prompts for _ in range(self.num_images)]
        files = write_pictures(output, images, prompts, settings)
        print(json.dumps({"files": files}) if self.common.json else "\n".join(files))


VERBS: dict[str, type[Invert] | type[Generate]] = {"invert": Invert, "generate": Generate}


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `ti-jax`; exits with 0, 1 (failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        _fail(f"name a verb\n\n{_overview()}", 2)
    if arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    verb = arguments.pop(0)
    if verb == "--version":
        import ti_jax

        print(ti_jax.__version__)
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        _fail(f"there is no verb {verb!r}{f': did you mean {near[0]}?' if near else ''}\n\n{_overview()}", 2)
    debug = "--debug" in arguments
    _log(debug)
    try:
        _parse(verb, arguments).run()
    except _Stopped as stopped:
        _fail(str(stopped), stopped.status)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except Exception as error:
        if debug:
            raise
        _fail(" ".join(_describe(error, verb).split()), 1)


def _log(debug: bool) -> None:
    """Messages on stderr."""
    handler = logging.StreamHandler()
    if not debug:
        # orbax logs a traceback a thread where a save fails, which is said in a line when it is raised.
        handler.addFilter(lambda record: record.name != "absl")
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[handler])
    logging.getLogger("ti_jax").setLevel(logging.DEBUG if debug else logging.INFO)


def _describe(error: Exception, verb: str) -> str:
    """What went wrong, in a line."""
    if "No space left on device" in str(error):  # orbax wraps it in errors of other types
        return f"the disk is full: free some space{', then go on with --resume' if verb == 'invert' else ''} ({error})"
    if isinstance(error, UserError | OSError):
        return str(error)
    return f"failed with {type(error).__name__}: {error} (--debug shows where)"


def _overview() -> str:
    lines = [f"  {verb:12} {(kind.__doc__ or '').splitlines()[0]}" for verb, kind in VERBS.items()]
    return "\n".join(
        [
            "usage: ti-jax VERB ...",
            "",
            "Textual Inversion in JAX. Each verb explains itself with --help.",
            "",
            *lines,
        ]
    )


def _fail(message: str, status: int) -> NoReturn:
    print(f"ti-jax: {message}", file=sys.stderr)
    sys.exit(status)


def _parse(verb: str, arguments: list[str]) -> Invert | Generate:
    """The verb with its options; `--config FILE.py` gives the defaults that other options override."""
    config_file = _take_option(arguments, "--config")
    prog = f"ti-jax {verb}"
    if config_file is None:
        return tyro.cli(VERBS[verb], prog=prog, args=arguments)
    if verb == "generate":
        return tyro.cli(Generate, prog=prog, args=[*as_options(read_config(config_file, dict)), *arguments])
    config = read_config(config_file, InversionConfig)
    kind = dataclasses.make_dataclass(
        "Invert",
        [("settings", Annotated[InversionConfig, tyro.conf.arg(name="")], field(default=config))],
        bases=(Invert,),
        namespace={"__doc__": Invert.__doc__},
        frozen=True,
    )
    return tyro.cli(kind, prog=prog, args=arguments)


def _take_option(arguments: list[str], name: str) -> str | None:
    """Removes `name VALUE` or `name=VALUE` from the arguments and returns the value."""
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise UserError(f"{name} wants a file")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
        if argument.startswith(f"{name}="):
            del arguments[i]
            return argument.removeprefix(f"{name}=")
    return None


def _load(common: Common) -> Any:
    import ti_jax

    if common.deterministic:  # read when the first device is asked for, which loading does
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    return ti_jax.load(common.model, dtype=common.dtype, variant=common.variant, revision=common.revision)


def _load_concept(path: str, token: str | None) -> Concept:
    from etils import epath

    import ti_jax

    file = epath.Path(path)
    if file.is_dir():
        file = file / "learned_embeds.safetensors"
    return ti_jax.Concept.load(file, token=token)


class _Stopped(Exception):
    """A signal ended the run after it had saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class _Stop:
    """Turns SIGTERM and the first Ctrl-C into an orderly stop after the current chunk; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    def _handle(self, number: int, _frame: Any) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.getLogger(__name__).warning("stopping after this chunk of steps; the run will be saved")

    def __enter__(self) -> _Stop:
        self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        from ti_jax.inversion.result import Interrupted

        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Interrupted):
            assert self.number is not None
            raise _Stopped(f"{error}; go on with --resume", self.number) from error


if __name__ == "__main__":
    main()
