"""Releases: bundles as archives that are the same byte for byte, and safe ways to fetch them."""
