"""Studies: folds x trainers x plans x datasets, from the archive to the report."""
