import numpy as np
from simulated_study import heart

from nnunet_mamba.study.report.predicted_cases import count_confusion


def test_confusion_of_files_counts_every_voxel(simulated_report):
    files = simulated_report.predicted
    method = simulated_report.methods["nnUNet"]
    voxels, n_cases = count_confusion(files.cases[method].values(), list(files.names))
    assert n_cases == 5
    assert voxels.sum() == 5 * heart(0).size
    assert voxels.sum(1).tolist() == sum(np.bincount(heart(i).ravel()) for i in range(5)).tolist()
