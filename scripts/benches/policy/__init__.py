"""What a part of the policy is worth: each replaced by its oracle, or varied alone."""
