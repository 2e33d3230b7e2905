"""Study: data sets, evaluation, statistics, reports, submissions and sweeps."""
