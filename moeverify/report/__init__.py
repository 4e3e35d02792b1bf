"""Reports, drawn from a result's JSON: HTML and JUnit."""
