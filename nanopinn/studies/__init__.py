"""Use cases: fit, simulate, plan, compare treatment arms."""
