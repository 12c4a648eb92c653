"""From records to tokens: templates, what is trained of a row, stores, profiles, splits and batches."""
