"""`cocoop push`: publish a trained prompt."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cocoop.cli.console import line, note
from cocoop.cli.options import left_out

__all__ = ["PushCommand"]


@dataclass(frozen=True, kw_only=True)
class PushCommand:
    """Publish a trained prompt on the Hugging Face hub: config.json, prompt.safetensors and README.md, no photos.

    README.md of the run is its model card; edit it before, or delete it to have it written anew."""

    run_directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="USER/NAME")]
    """Where to; made if it is missing. Log in before with `hf auth login`, or set HF_TOKEN."""
    private: bool = False
    """Only you, or your organisation, may read it."""
    license: Annotated[str | None, left_out("NAME", "none said")] = None
    """Licence of the prompt by its name on the hub, such as mit or cc-by-4.0."""
    message: Annotated[str, tyro.conf.arg(metavar="TEXT")] = "A prompt trained with cocoop"
    """What the hub's history says."""

    def run(self) -> None:
        """Check that it can be loaded, and publish."""
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(self.run_directory)
        backbone = method.backbone.name
        if backbone.startswith(("local-dir:", "openai:")):
            note(f"config.json names the backbone by its place on this machine, {backbone}; elsewhere it is not found.")
        card: dict[str, Any] = {"directory": self.run_directory}
        address = method.push_to_hub(
            self.repository,
            # Where nothing is said, an organisation's own default holds.
            private=self.private or None,
            commit_message=self.message,
            model_card_kwargs=card if self.license is None else card | {"license": self.license},
        )
        line(address)
        note(f"Predict with: cocoop predict {shlex.quote(self.repository)} PHOTOS...")
