"""`ti-jax generate`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ti_jax.cli.common import Common, Repeated, SamplerName, load_concepts
from ti_jax.errors import UserError


@dataclass(frozen=True)
class Generate:
    """Draw pictures of prompts that may hold learned words."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What to draw."""
    concept: Repeated = ()
    """An embedding file, a run folder, or an id on the Hugging Face hub; repeat for several."""
    token: str | None = None
    """Call the concept by this word instead of the file's own (one concept only)."""
    negative_prompt: str = ""
    """What not to draw."""
    steps: int = 50
    """Sampling steps."""
    guidance: float = 5.0
    """Scale of classifier-free guidance; 1 and below switch it off."""
    sampler: SamplerName = "ddim"
    """dpm++ is DPM-Solver++(2M), euler_a Euler ancestral."""
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
    """Pictures drawn at a time. Unset: all of them, but at most 8."""
    long_prompts: Literal["cut", "chunk"] = "cut"
    """What to do with a prompt beyond the model's limit: cut its end off, or go on in a further chunk as A1111 does."""
    emphasis: Literal["off", "a1111"] = "off"
    """off: brackets are text. a1111: (word:1.2) weighs a word."""
    image: str | None = None
    """For an inpainting model: the picture of which a part is painted anew."""
    mask: str | None = None
    """For an inpainting model: a picture that is white where to paint."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)

    def run(self) -> None:
        """Draws, and writes PNGs that say how they were made."""
        from etils import epath

        import ti_jax
        from ti_jax.data.pictures import read_mask, read_picture
        from ti_jax.files import check_folder
        from ti_jax.output import write_pictures

        if not self.prompts:
            raise UserError('name at least one prompt, such as "a photo of <fox>"')
        if self.token is not None and len(self.concept) != 1:
            raise UserError("--token renames one concept: give exactly one --concept with it")
        output = epath.Path(self.common.output or "images")
        check_folder(output)  # before the work of drawing
        image = None if self.image is None else read_picture(self.image)
        mask = None if self.mask is None else read_mask(self.mask)
        concepts = [concept for path in self.concept for concept in load_concepts(path, self.token)]
        pipeline = self.common.load_pipeline()
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
            long_prompts=self.long_prompts,
            emphasis=self.emphasis,
            image=image,
            mask=mask,
        )
        settings = dataclasses.asdict(self)
        settings.pop("common")
        settings["model"] = self.common.model
        prompts = [prompt for prompt in self.prompts for _ in range(self.num_images)]
        files = write_pictures(output, images, prompts, settings)
        print(json.dumps({"files": files}) if self.common.json else "\n".join(files))
