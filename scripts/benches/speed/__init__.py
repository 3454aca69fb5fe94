"""Rates: environments, loading, training, inference, blocks beside the reference's."""
