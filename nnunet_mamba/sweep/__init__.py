"""Studies: folds x trainers x plans x datasets, from archive to report, by commands of nnU-Net and ours."""
