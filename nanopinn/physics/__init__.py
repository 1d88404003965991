"""What happens in tissue: pure functions in SI, and the one model that every solver reads."""
