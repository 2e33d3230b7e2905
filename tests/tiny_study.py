"""Study of three methods on eight cases and two labels whose results can be computed by hand."""

from nnunet_mamba.study.evaluation import Score

LEVELS = {"nnUNetTrainer": 0.0, "nnUNetTrainerMMUNet": 0.1, "nnUNetTrainerMMUNet_NoSSM": 0.05}


def tiny_scores(protocol: str = "honest") -> list[Score]:
    """Return scores of cases a to h, in turn of folds 0 and 1, which differ by 0.04; labels differ by 0.2."""
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
