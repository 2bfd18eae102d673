"""Other libraries' names on this library's core: an old script moves by changing an import."""
