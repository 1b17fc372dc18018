"""What every command shares: options, errors, tables, progress, publishing a folder whole."""
