"""Contracts and plumbing that every service shares."""
