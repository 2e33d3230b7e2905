from dataclasses import replace

import pytest

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.datasets.specs import DATASETS
from nnunet_mamba.study.evaluation import METRICS, PROTOCOLS
from nnunet_mamba.study.report.published import (
    StudySetup,
    find_differences,
    find_published_label_value,
    find_published_value,
    get_network_key,
    match_dataset,
    read_published_tables,
)

ALL = [table for dataset in (*DATASETS, "lits", "kits23") for table in read_published_tables(dataset)]


def method(trainer, plans="nnUNetPlans"):
    return Method(trainer, plans, "3d_fullres")


@pytest.mark.parametrize("table", ALL, ids=lambda t: f"{t.source[:12]}-{t.dataset}-{t.metric}")
def test_every_table_is_complete(table):
    assert table.metric in METRICS
    assert table.protocol in {*PROTOCOLS, "leaderboard", "not stated"}
    assert table.split in ("crossval", "test", "validation")
    assert table.n_cases > 0 and table.scale in (1, 100) and "arXiv" in table.source
    shares = [v / table.scale for v in table.values.values()]
    assert shares and (table.metric == "hd95" or all(0 < share < 1 for share in shares))


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("Dataset027_ACDC", "acdc"),
        ("Dataset218_AMOS2022_postChallenge_task1", "amos22_ct"),
        ("Dataset090_SynapseAbdomen", "synapse"),
        ("Dataset900_Tiny", None),
    ],
)
def test_datasets_are_known_by_their_folders(name, dataset):
    assert match_dataset(name) == dataset


@pytest.mark.parametrize(
    ("trainer", "network"),
    [
        ("nnUNetTrainer", "nnunet"),
        ("nnUNetTrainer_250epochs", "nnunet"),
        ("nnUNetTrainerUMambaBot_NoSSM_100epochs", "umambabotnossm"),
        ("nnUNetTrainerMambaMultiPaperOneCycle", "mambamulti"),
    ],
)
def test_networks_are_known_by_their_trainers(trainer, network):
    assert get_network_key(method(trainer)) == network


def test_residual_encoders_are_known_by_their_plans():
    assert get_network_key(method("nnUNetTrainer", "nnUNetResEncUNetLPlans")) == "nnunetresencl"


def test_revisited_has_19_methods_and_its_acdc_column():
    """The table in nnU-Net's documentation: U-Mamba Bot 91.79, No-Mamba Base 91.89, nnU-Net 91.54."""
    table = read_published_tables("acdc")[0]
    assert len(table.values) == 19
    values = [
        find_published_value(table, method(f"nnUNetTrainer{t}"))
        for t in ("UMambaBot", "UMambaBot_NoSSM", "", "SegMamba")
    ]
    assert values[:3] == pytest.approx([0.9179, 0.9189, 0.9154]) and values[3] is None


def test_mm_unets_organs_have_the_datasets_names():
    """Their mean is the table's 0.910; AMOS writes gall bladder, the paper gallbladder."""
    (table,) = [t for t in read_published_tables("amos22_ct") if t.by_label]
    names = DATASETS["amos22_ct"].labels
    values = [
        find_published_label_value(table, method("nnUNetTrainerMMUNet"), name)
        for name in names
        if name != "background"
    ]
    assert sum(values) / 15 == pytest.approx(0.910, abs=5e-4)


def test_what_differs_is_told():
    table = read_published_tables("acdc")[0]
    setup = StudySetup("acdc", "honest", frozenset("01234"), 200)
    assert find_differences(table, setup) == []
    other = replace(setup, protocol="transunet", folds=frozenset({"test"}), n_cases=40)
    assert find_differences(table, other) == [
        "protocol honest, here transunet",
        "cross-validation, here test cases",
        "200 cases, here 40",
    ]
    assert "another dataset (acdc)" in find_differences(table, replace(setup, dataset="synapse"))
