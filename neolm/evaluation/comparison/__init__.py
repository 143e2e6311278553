"""Several runs side by side: a table, the settings that differ, and a page that draws them together."""
