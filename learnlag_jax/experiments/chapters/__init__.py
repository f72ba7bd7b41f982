"""The chapters of the report, each `chapter(settings) -> Chapter`, with their parts and figures."""
