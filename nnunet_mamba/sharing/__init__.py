"""Exports of trained models to share: weights, plans, dataset.json and a card, nothing that can run code."""
