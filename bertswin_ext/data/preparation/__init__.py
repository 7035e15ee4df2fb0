"""Preparation: from raw scans to a store of regions that training reads."""
