import pytest
from simulated_study import write_simulated

from nnunet_mamba.study.evaluation import Score, write_table
from nnunet_mamba.study.report.study import Request, gather

LEVELS = {"nnUNetTrainer": 0.0, "nnUNetTrainerMMUNet": 0.1, "nnUNetTrainerMMUNet_NoSSM": 0.05}


def tiny_scores(protocol: str = "honest") -> list[Score]:
    """Cases a to h, in turn of folds 0 and 1, which differ by 0.04; labels 0.2 apart."""
    common = {"metric": "dice", "n_voxels": 10, "empty": "", "dataset": "Dataset900_Tiny"}
    common |= {"plans": "nnUNetPlans", "configuration": "3d_fullres", "backend": "own", "version": "1"}
    return [
        Score(
            case=case,
            label=label,
            label_name=name,
            value=level + 0.58 + 0.2 * (label == "1") + 0.04 * (i % 2),
            trainer=trainer,
            fold=str(i % 2),
            protocol=protocol,
            **common,
        )
        for trainer, level in LEVELS.items()
        for i, case in enumerate("abcdefgh")
        for label, name in (("1", "large"), ("2", "small"))
    ]


@pytest.fixture
def write_scores(tmp_path):
    def write(scores, name="scores.csv"):
        write_table(scores, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def tiny(write_scores):
    return gather(Request([write_scores(tiny_scores())], n_bootstrap=200))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """The table and the folder of results of a simulated study."""
    return write_simulated(tmp_path_factory.mktemp("simulated"), n_patients=10, n_pictured=5)


@pytest.fixture(scope="session")
def simulated_report(simulated):
    table, results = simulated
    return gather(Request([table], results=results, group=r"patient\d+", n_bootstrap=200))
