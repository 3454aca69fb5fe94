"""Published language models as ours."""
