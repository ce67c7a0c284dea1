"""What is kept: tables, and what is read from them and written to them in one transaction."""
