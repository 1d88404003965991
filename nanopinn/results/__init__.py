"""Results as frozen data classes without behaviour."""
