"""The studies in scripts/: everything that they name exists, and docs/reproduce.md tells of each."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from releases import build

from nnunet_mamba.cli import main
from nnunet_mamba.networks.family import supported_ndims
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.plans import load_template
from nnunet_mamba.study.datasets.specs import get_spec
from nnunet_mamba.study.datasets.splits import find_split
from nnunet_mamba.study.evaluation.protocols import check_metrics, get_protocol
from nnunet_mamba.study.statistics.methods import choose_baseline, find_size_matched, find_twin
from nnunet_mamba.study.sweep.build_jobs import build_jobs
from nnunet_mamba.study.sweep.job import compute_cache_key
from nnunet_mamba.study.sweep.read import read_study
from nnunet_mamba.study.sweep.study import Study
from nnunet_mamba.study.sweep.training_jobs import PLANS_OF_PLANNER

CHECKOUT = Path(__file__).parents[2]
STUDIES = sorted((CHECKOUT / "scripts").rglob("*.yaml"))
REPRODUCE = [file for file in STUDIES if file.parent.name == "reproduce"]
PAGE = CHECKOUT / "docs" / "reproduce.md"
VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)((?:/\w+)*)")
every_study = pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
every_table = pytest.mark.parametrize("file", REPRODUCE, ids=lambda file: file.stem)


@pytest.fixture
def read(tmp_path, monkeypatch, nnunet_folders):
    """Return a reader of studies for whom each release is in a folder, named by the study's variables."""

    def of(file: Path) -> Study:
        for name, below in VARIABLE.findall(file.read_text()):
            monkeypatch.setenv(name, str(tmp_path / name))
            (tmp_path / name / below.strip("/")).mkdir(parents=True, exist_ok=True)
        return read_study(file)

    return of


def jobs(study: Study) -> list:
    return build_jobs(
        study, {method.trainer: json.dumps({"name": method.trainer}) for method in study.methods}
    )


def compared(study: Study) -> list[Method]:
    return [Method(method.trainer, method.plans, method.configuration) for method in study.methods]


@every_study
def test_a_study_trains_every_method_on_every_fold_and_compares_them(read, file):
    study = read(file)
    made = jobs(study)
    trainings = [job for job in made if job.kind == "train"]
    assert len(trainings) == len(study.datasets) * len(study.methods) * len(study.folds) * len(study.seeds)
    evaluated = {job.command.arguments[job.command.arguments.index("--protocol") + 1]
              for job in made if job.kind == "evaluate"}  # fmt: skip
    assert evaluated == set(study.protocols) and "honest" in evaluated
    compares = [job for job in made if job.kind == "compare"]
    assert len(compares) % (len(study.metrics) * len(study.protocols)) == 0 and compares


@every_table
def test_releases_and_splits_are_known_by_these_names(read, file):
    for dataset in read(file).datasets:
        name, spec = get_spec(dataset.convert.name)
        assert spec.folder is None or dataset.name.endswith(f"_{spec.folder}")
        find_split(dataset.split or "5fold", name)
        assert bool(dataset.group) == bool(spec.group), f"{name}: patients are {spec.group}"
        if dataset.group:
            assert re.fullmatch(dataset.group, {"acdc": "patient001", "endovis17": "video01",
                                                "brats23": "BraTS-GLI-00001"}[name])  # fmt: skip


@every_table
def test_a_release_lies_where_the_study_looks_for_it(read, file, tmp_path):
    """Dry-run each conversion on a miniature, which is too small for most splits of papers."""
    for dataset in read(file).datasets:
        release, root = dataset.convert, tmp_path / "releases" / dataset.name
        build(get_spec(release.name)[0], root)
        below = Path(release.sources[0]).relative_to(tmp_path).parts[1:]  # the variable
        home = next(root.rglob(below[0])) if below else root
        assert main(["convert", release.name, str(home), *release.options, "--dry-run"]) == 0


@every_table
def test_templates_are_made_for_these_data_and_planners_are_nnunets(read, file):
    study = read(file)
    for plans in study.plans.values():
        assert plans.planner is None or PLANS_OF_PLANNER[plans.planner] == plans.name
        if plans.template:
            template = load_template(plans.template)
            names = [get_spec(dataset.convert.name)[0] for dataset in study.datasets]
            assert {name.removesuffix("8") for name in names} <= {
                name.removesuffix("8") for name in template.datasets
            }
            changed = {method.configuration for method in study.methods if method.plans == plans.name}
            assert changed <= set(template.configurations) or not template.configurations


@every_study
def test_every_metric_is_defined_by_every_protocol(read, file):
    study = read(file)
    for protocol in study.protocols:
        check_metrics(get_protocol(protocol), study.metrics)


@every_table
def test_trainers_exist_and_their_networks_work_on_these_grids(read, file):
    from nnunet_mamba import trainers
    from nnunet_mamba.trainers.mamba import MambaTrainer

    for method in read(file).methods:
        trainer = getattr(trainers, method.trainer)
        if issubclass(trainer, MambaTrainer):
            assert (2 if method.configuration == "2d" else 3) in supported_ndims(trainer.network_name)


@every_study
def test_every_network_is_compared_with_its_twin_without_ssm_and_with_nnunet(read, file):
    methods = compared(read(file))
    mixing = [
        one
        for one in methods
        if re.search("Mamba|MMUNet|VMUNet|XLSTM|LKM", one.trainer)
        and not re.search("NoSSM|_Conv", one.trainer)
    ]
    assert mixing
    for method in mixing:
        assert find_twin(method, methods), method
    size_matched = {find_size_matched(method, methods) for method in mixing}
    assert size_matched >= {method for method in methods if "_Conv" in method.trainer}
    assert any("Control" in method.trainer for method in methods)


@every_study
def test_the_baseline_is_one_method(read, file):
    study = read(file)
    choose_baseline(compared(study), study.baseline)


def test_one_dataset_number_means_one_release_and_one_split(read):
    """Studies share nnU-Net's folders, where a second split would take the place of the first."""
    made = defaultdict(set)
    for file in STUDIES:
        for dataset in read(file).datasets:
            convert = dataset.convert
            way = (convert.name, convert.options) if convert else None
            made[dataset.name].add((way, dataset.split or "5fold"))
    assert [name for name, ways in made.items() if len(ways) > 1] == []


def test_what_two_studies_train_alike_the_second_finds_done(read):
    """Compare cache keys: the folder of a fold names the one that it was made for."""
    made = defaultdict(set)
    for file in REPRODUCE:
        known: dict[str, str] = {}
        for job in jobs(read(file)):
            known[job.name] = compute_cache_key(job, known)
            if job.kind == "train":
                made[job.own_folder].add(known[job.name])
    assert {len(cache_keys) for cache_keys in made.values()} == {1}


def test_the_page_names_every_table_and_no_other():
    named = re.findall(r"\(\.\./scripts/reproduce/(\w+\.yaml)\)", PAGE.read_text())
    assert sorted(named) == [file.name for file in REPRODUCE]


@every_table
def test_the_page_counts_the_trainings(read, file):
    n = sum(job.kind == "train" for job in jobs(read(file)))
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| [`{file.name}`]")]
    assert row.split("|")[3].split()[0] == str(n)


@every_table
def test_a_study_says_at_its_head_what_it_repeats_and_what_differs(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("# ")]
    assert 3 <= len(head) <= 8 and "$" in " ".join(head)
    assert {"# Repeated:", "# Differs:"} <= {" ".join(line.split()[:2]) for line in head}
