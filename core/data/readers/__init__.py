"""From a file, a folder or the hub to rows as they were found: streamed, decoded, no more of them held than must be."""
