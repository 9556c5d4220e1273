"""`ti-jax invert`."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ti_jax.cli.common import Common
from ti_jax.cli.stop import Stop
from ti_jax.cli.usage import diffusers_calls, diffusers_loading, is_stable_diffusion
from ti_jax.config import InversionConfig, concept_name
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from ti_jax.inversion.result import Result
    from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class Invert:
    """Learn a new word from 3 to 5 pictures of a thing or a style."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """A folder, files, or `bundled:NAME` (fox, tabby, blob)."""
    token: str
    """The new word, such as "<fox>"; not a word that the model knows."""
    init: str
    """A word or phrase that comes close, `random`, or an embedding file or run folder (`runs/fox`) to go on from."""
    name: str | None = None
    """Name of the concept: its folder, its file and its random stream. Unset: the letters and digits of the token."""
    resume: bool = False
    """Go on with the run in the output folder, to the very same vectors."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)
    settings: Annotated[InversionConfig, tyro.conf.arg(name="")] = field(default_factory=InversionConfig)

    def run(self) -> None:
        """Learns, writes the run folder, and says how to use what is in it."""
        import ti_jax
        from ti_jax.inversion.run_folder import RunFolder
        from ti_jax.terminal import show_progress

        if not self.pictures:
            raise UserError("name the pictures: a folder, files, or bundled:fox")
        name = self.name or concept_name(self.token)
        output = self.common.output or f"runs/{name}"
        RunFolder(output).check(resume=self.resume, overwrite=self.overwrite)  # before a model is loaded
        pipeline = self.common.load_pipeline()
        with Stop() as stop, show_progress() as on_progress:
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
        self._say(pipeline, result, name, output)

    def _say(self, pipeline: Pipeline, result: Result, name: str, output: str) -> None:
        from ti_jax.files import locate
        from ti_jax.inversion.job import summary

        file = f"{output}/learned_embeds.safetensors"
        if self.common.json:
            print(json.dumps({**summary(result), "file": file}))
            return
        size = f"{n} vectors" if (n := result.concept.num_vectors) > 1 else "one vector"
        print(f"learned {self.token}, {size}, in {result.history.steps} steps: {file}")
        if (sheet := locate(output) / "contact_sheet.png").exists():
            print(f"what it looks like: {sheet}")
        example = pipeline.inversion_defaults.preview_prompts[0].replace("{}", self.token)
        command = ["ti-jax", "generate", example, "--concept", output, *self.common.model_options()]
        print(f"use it: {shlex.join(command)}")
        if not is_stable_diffusion(pipeline):
            return
        lines = [*diffusers_loading(self.common, result.concept), *diffusers_calls(result.concept, file)]
        print("in diffusers:", *lines, sep="\n  ")
        print(f"in A1111: copy {output}/{name}.safetensors to embeddings/ and write {name} in the prompt")
        print(f"in ComfyUI: copy it to models/embeddings/ and write embedding:{name} in the prompt")
