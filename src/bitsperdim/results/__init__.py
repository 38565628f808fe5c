"""The one reader of results: what the stages wrote, checked and typed."""
