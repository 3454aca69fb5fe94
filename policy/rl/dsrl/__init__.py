"""DSRL: a frozen flow, steered by its noise; and learning from nothing, for reference."""
