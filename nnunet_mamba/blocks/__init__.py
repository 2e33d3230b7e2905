"""Building blocks of the networks: Mamba, VSS, residual and meta blocks."""
