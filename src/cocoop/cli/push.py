"""`cocoop push`: publish a trained prompt."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cocoop.cli.console import line, note
from cocoop.cli.options import optional_flag

__all__ = ["PushCommand"]


@dataclass(frozen=True, kw_only=True)
class PushCommand:
    """Publish a trained prompt on the Hugging Face hub: config.json, prompt.safetensors and README.md, no images.

    README.md in the run directory is the model card: edit it first, or delete it to have it written again."""

    run_directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory written by `cocoop train`."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="USER/NAME")]
    """Repository, created if it is missing. Log in first with `hf auth login`, or set HF_TOKEN."""
    private: bool = False
    """Create the repository as private."""
    license: Annotated[str | None, optional_flag("NAME", "none stated")] = None
    """Licence of the prompt by its name on the hub, such as mit or cc-by-4.0."""
    message: Annotated[str, tyro.conf.arg(metavar="TEXT")] = "A prompt trained with cocoop"
    """Commit message on the hub."""

    def run(self) -> None:
        """Load the prompt, to check that it works, and publish it."""
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(self.run_directory)
        backbone = method.backbone.name
        if backbone.startswith(("local-dir:", "openai:")):
            note(f"config.json names the backbone by its path on this machine, {backbone}; others will not find it.")
        card: dict[str, Any] = {"directory": self.run_directory}
        address = method.push_to_hub(
            self.repository,
            # None leaves the choice to the default of the organisation.
            private=self.private or None,
            commit_message=self.message,
            model_card_kwargs=card if self.license is None else card | {"license": self.license},
        )
        line(address)
        note(f"Predict with: cocoop predict {shlex.quote(self.repository)} PHOTOS...")
