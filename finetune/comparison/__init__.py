"""Runs -> one report. No torch."""
