"""The guard measured on labelled files. Needs the extra `eval` (numpy; matplotlib for plots)."""
