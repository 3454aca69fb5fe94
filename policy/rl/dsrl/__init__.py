"""DSRL: a frozen flow, steered by its noise. Learning from nothing, for reference, is here too."""
