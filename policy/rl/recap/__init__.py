"""RECAP: supervised learning from own experience and corrections, with their advantage as an input."""
