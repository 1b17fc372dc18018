"""The shared part of all commands: options, errors, tables, progress, publishing a folder whole."""
