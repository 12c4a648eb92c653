"""What is wrong with which rows, found while they stream by."""
