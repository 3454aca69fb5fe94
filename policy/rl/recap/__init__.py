"""RECAP: own experience and corrections, told apart by their advantage."""
