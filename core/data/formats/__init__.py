"""From rows to records: what the columns mean, told or asked, and how each row is converted."""
