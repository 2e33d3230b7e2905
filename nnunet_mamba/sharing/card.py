"""Card of a shared model: README.md, as people and the Hugging Face hub read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from nnunet_mamba.io.tables import Table, escape_markdown
from nnunet_mamba.nnunet.catalogue import NETWORKS, PREFIX, TRAINERS, TrainerInfo, parse_trainer
from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.nnunet.dataset_json import get_channels, sort_channels
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.nnunet.trained_plans import resolve_configuration

NNUNET = "Isensee et al., nnU-Net, Nature Methods 18, 203-211 (2021), doi:10.1038/s41592-020-01008-z"
LICENCES = (  # the hub's words for those that data and weights often have; others are "other" there
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "openrail"),
)
NO_LICENCE = "None was given. Ask its authors before you use it."
NO_SCORES = "None were given with this model."


class Words(NamedTuple):
    """Words of the exporter on a model; "" for what is not said. `repo` is OWNER/NAME on the hub."""

    name: str = ""
    description: str = ""
    licence: str = ""
    cite: str = ""
    repo: str = ""


class FoldFacts(NamedTuple):
    """Facts about a fold's checkpoint; `epochs` is None where it does not tell them."""

    fold: str
    n_parameters: int
    epochs: int | None
    axes: tuple[int, ...] | None


@dataclass(frozen=True)
class Card:
    """Facts that a card shows. `split` says for each fold how many cases it was trained and validated on."""

    method: Method
    dataset: str
    plans: Mapping[str, Any]
    description: Mapping[str, Any]
    checkpoint: str
    folds: Sequence[FoldFacts]
    words: Words
    scores: Sequence[Table]
    split: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def configuration(self) -> Mapping[str, Any]:
        return resolve_configuration(self.plans, self.method.configuration)

    @property
    def trainer(self) -> TrainerInfo | None:
        """Return the trainer's row of the catalogue, None for trainers of others."""
        base = parse_trainer(self.method.trainer).base
        return next((row for row in TRAINERS if row.name == base), None)

    @property
    def network(self) -> str:
        """Return the network's title; of nnU-Net's own trainer, its class in the plans."""
        parsed = parse_trainer(self.method.trainer)
        if self.trainer is None:
            architecture = self.configuration.get("architecture") or {}
            path = architecture.get("network_class_name") or self.configuration.get("UNet_class_name", "")
            return str(path).rpartition(".")[2] if parsed.base == PREFIX else f"network of {parsed.base}"
        change = f" with {self.trainer.mixer}" if self.trainer.mixer else ""
        return NETWORKS[self.trainer.network].title + (", without its SSM" if parsed.without_ssm else change)

    @property
    def paper(self) -> str:
        """Return the network's paper, "" if it is not known."""
        return NETWORKS[self.trainer.network].paper if self.trainer else ""

    @property
    def title(self) -> str:
        return self.words.name or f"{self.network} for {self.dataset.partition('_')[2]}"


def render_card(card: Card) -> str:
    """Return the card in Markdown, with the hub's front matter."""
    sections = {
        "": _summary(card),
        "Network": _pairs(_network_rows(card)),
        "Data": _pairs(_data_rows(card)),
        "Scores": "\n\n".join(map(_score_table, card.scores)) or NO_SCORES,
        "Use": _use(card),
        "Licence": escape_markdown(card.words.licence) or NO_LICENCE,
        "Citation": _citation(card),
    }
    body = [f"## {heading}\n\n{text}" if heading else text for heading, text in sections.items()]
    return "\n\n".join([_front_matter(card), f"# {escape_markdown(card.title)}", *body]) + "\n"


def _front_matter(card: Card) -> str:
    licence = " ".join(card.words.licence.lower().split())
    known = {"license": licence} if licence in LICENCES else {"license": "other", "license_name": licence}
    content = {
        **(known if licence else {}),
        "library_name": "nnunet_mamba",
        "pipeline_tag": "image-segmentation",
        "tags": ["nnunet", "nnunet_mamba", "medical"],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _summary(card: Card) -> str:
    labels = len(set(card.description["labels"]) - {"background", "ignore"})
    folds = ", ".join(one.fold for one in card.folds)
    facts = (
        f"{card.network}, trained by {card.method.trainer} on {card.dataset} "
        f"({card.method.configuration}, fold {folds}): segments {labels} structures. "
        "A model of nnU-Net v2 as safetensors and JSON, without code."
    )
    return "\n\n".join(filter(None, [escape_markdown(card.words.description), escape_markdown(facts)]))


def _network_rows(card: Card) -> dict[str, str]:
    trainer, settings = card.trainer, card.configuration
    epochs = {one.epochs for one in card.folds}
    numbers = sorted({one.n_parameters for one in card.folds})
    axes = {one.axes for one in card.folds}
    return {
        "network": f"{card.network} ({card.paper})" if card.paper else card.network,
        "parameters": " or ".join(f"{number:,}" for number in numbers),
        "trainer": card.method.trainer,
        "recipe": f"{trainer.name}: {trainer.recipe}" if trainer else "the trainer's own",
        "epochs": ", ".join(str(one) for one in sorted(filter(None, epochs))) or "not recorded",
        "plans, configuration": f"{card.method.plans}, {card.method.configuration}",
        "patch": _sizes(settings.get("patch_size")),
        "spacing in mm": f"{_sizes(settings.get('spacing'))}, in the axis order of nnU-Net's plans",
        "batch size": str(settings.get("batch_size", "")),
        "mirrored axes in prediction": " or ".join(
            ", ".join(map(str, one)) if one else "none" for one in sorted(axes, key=str)
        ),
        "checkpoint": card.checkpoint
        if card.checkpoint == FINAL
        else f"{card.checkpoint}, not the final one",
        "exported with": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }


def _data_rows(card: Card) -> dict[str, str]:
    channels = sort_channels(get_channels(card.description), "dataset.json")
    labels = card.description["labels"]
    alike: dict[str, list[str]] = {}
    for fold, text in card.split.items():
        alike.setdefault(text, []).append(fold)
    return {
        "dataset": card.dataset,
        "channels": ", ".join(f"{number}: {name}" for number, name in channels.items()),
        "labels": ", ".join(f"{name} {value}" for name, value in labels.items()),
        "files": card.description["file_ending"],
        "cases for training": str(card.description.get("numTraining", "not recorded")),
        "split": "; ".join(f"fold {', '.join(folds)}: {text}" for text, folds in alike.items()),
    }


def _use(card: Card) -> str:
    method, repo = card.method, card.words.repo
    folds = " ".join(one.fold for one in card.folds)
    plans = "" if method.plans == "nnUNetPlans" else f" -p {method.plans}"
    source = f"hf://{repo}" if repo else "FOLDER"
    return (
        f"```bash\n# with nnunet_mamba {card.versions['nnunet_mamba']}{' and huggingface-hub' * bool(repo)}\n"
        "export nnUNet_results=/path/to/nnUNet_results\n"
        f"nnunet-mamba import-model {source}\n"
        f"nnunet-mamba predict -i IMAGES -o OUT -d {card.dataset} -c {method.configuration} "
        f"-tr {method.trainer}{plans} -f {folds}\n```\n\n"
        "Or from the files as they are, without an import: "
        f"`nnunet-mamba predict -i IMAGES -o OUT -m FOLDER -f {folds}`. Images are files "
        f"`CASE_0000{card.description['file_ending']}`, a number for each channel."
    )


def _citation(card: Card) -> str:
    works = [card.words.cite, card.paper and f"{card.network}: {card.paper}", NNUNET]
    return "\n".join(
        f"* {escape_markdown(work)}"
        for work in (*works, f"nnunet_mamba {card.versions['nnunet_mamba']}, which wrote this export")
        if work
    )


def _score_table(table: Table) -> str:
    notes = "\n\n".join(escape_markdown(note) for note in table.notes)
    return "\n\n".join(filter(None, [escape_markdown(table.title), table.render_markdown(), notes]))


def _pairs(rows: Mapping[str, str]) -> str:
    return Table(("", ""), list(rows.items()), n_text=2).render_markdown()


def _sizes(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values or ())
