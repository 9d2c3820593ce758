"""What the page is told besides the facts: where it will lie, and what no file of the folders says."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.publish.facts import Facts
from scripts.publish.licences import licence_of

ANY_REPOSITORY = "OWNER/NAME"


@dataclass(frozen=True)
class Page:
    """What the page is told besides the facts.

    Attributes:
        repo_id: the repository; None writes :data:`ANY_REPOSITORY`.
        in_root: the only folder's files lie in the root of the repository.
        base_model: Hub id of the model that the checkpoint is; None takes it from the checkpoint.
        licence: the Hub's identifier; None takes that of a known base model.
        dataset: Hub id of the data set that other audio than the demo recordings is from.
    """

    repo_id: str | None = None
    in_root: bool = False
    base_model: str | None = None
    licence: str | None = None
    dataset: str | None = None

    def base(self, facts: Facts) -> str | None:
        """Hub id of the base model, None where nothing says it; never one for demo and random weights."""
        if facts.origin.kind != "model":
            return None
        source = facts.origin.source or ""
        return self.base_model or (source if facts.origin.revision and "/" in source else None)

    def licence_of(self, facts: Facts) -> str | None:
        """The licence's identifier, None where it is not known."""
        return self.licence or licence_of(self.base(facts), facts.origin.kind)
