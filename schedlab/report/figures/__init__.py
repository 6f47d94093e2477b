"""The report's figures, one module per family; each function returns None without its data."""
