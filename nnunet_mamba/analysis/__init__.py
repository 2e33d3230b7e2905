"""Looking into a trained network: what its scans see, where its features lie, how far its gradients reach."""
