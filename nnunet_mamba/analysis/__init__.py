"""Analysis of a trained network: its scans, the distribution of its features, its receptive field."""
