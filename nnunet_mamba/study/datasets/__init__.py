"""Conversion of downloaded data sets to nnU-Net's format, and their splits."""
