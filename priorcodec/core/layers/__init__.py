"""Optional layers of a file: what each of them means and how its bytes are coded."""
